"""`python -m launch.job CONFIG.toml [--address URL] [--stage K] [--attempt N] [-- overrides]`: a run on a Ray cluster.

Submits `python -m launch.rl` as a Ray job from the project's folder, prints its output, and ends with its exit code.
The same command again goes on: it watches a job that is running, says so when it is done, and after one that failed or
was stopped submits the next attempt, which resumes from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.cli import ConfigError, load_config, main
from launch.rl import stage_count
from rl.config import RunConfig
from rl.run_folder import COMMIT_VARIABLE, SAFE_NAME, git_commit

EXIT_UNKNOWN = 1
"""The job ended without an exit code."""


def run(argv: Sequence[str]) -> int:
    """Submit and watch; returns the job's exit code, 75 where it was stopped."""
    own, overrides = _split(argv)
    arguments = _parser().parse_args(own)
    config = load_config(RunConfig, [arguments.config, *overrides], prog="python -m launch.job").config
    if arguments.stage != "all":
        stage_count(arguments.stage, config)
    working_dir = Path(arguments.working_dir)
    if not (working_dir / "launch" / "rl.py").is_file():
        raise ConfigError(
            f"command line: --working-dir: {arguments.working_dir!r} holds no launch/rl.py; name the project's folder"
        )
    _check_name(arguments.config, config)
    from rl.ray_jobs import Jobs, Submission, is_uploaded, run_once

    inside = _inside(arguments.config, working_dir)
    if inside is not None and not is_uploaded(working_dir / inside, working_dir):
        raise ConfigError(
            f"{arguments.config}: the job would not have it, because .gitignore or .rayignore leaves it out of the upload; "
            "put it into launch/configs, or outside of the project's folder where every node sees it"
        )
    commit = git_commit(working_dir)
    submission = Submission(
        run=config.run.name,
        stage=arguments.stage,
        command=command(arguments.config, config, overrides, stage=arguments.stage, working_dir=working_dir),
        working_dir=str(working_dir),
        environment={"RAY_JOB_STOP_WAIT_TIME_S": str(arguments.stop_wait_s)}
        | ({COMMIT_VARIABLE: commit} if commit else {}),
    )
    attempt = run_once(Jobs(arguments.address), submission, number=arguments.attempt)
    if attempt.exit_code != 0:
        code = "no exit code" if attempt.exit_code is None else f"exit code {attempt.exit_code}"
        print(f"job {attempt.job_id}: {attempt.told}, {code}; the same command submits the next attempt", flush=True)
    return EXIT_UNKNOWN if attempt.exit_code is None else attempt.exit_code


def command(path: str, config: RunConfig, overrides: Sequence[str], *, stage: str, working_dir: Path) -> str:
    """What the job runs. Its current folder is a copy that goes with the job, so every path of the run is absolute."""
    file = _inside(path, working_dir) or Path(path).absolute()
    words = ["python", "-m", "launch.rl", str(file), "--stage", stage, *overrides]
    return shlex.join([*words, *(word for key, value in _paths(config) for word in (f"--{key}", value))])


def _inside(path: str, working_dir: Path) -> Path | None:
    """The file as it is called from the project's folder; None: it lies elsewhere."""
    file, folder = Path(os.path.abspath(path)), os.path.abspath(working_dir)  # which, unlike absolute(), take `..` away
    return file.relative_to(folder) if file.is_relative_to(folder) else None


def _check_name(path: str, config: RunConfig) -> None:
    """Jobs are found by the run's name: one of its own, and one that can be part of an id.

    Raises:
        ConfigError: it is not.
    """
    if "name" not in config.run.model_fields_set:
        raise ConfigError(f"{path}: run.name: missing; a job's id begins with it, so give the run a name of its own")
    if not SAFE_NAME.fullmatch(config.run.name):
        raise ConfigError(
            f"{path}: run.name: seen {config.run.name!r}, which a job's id begins with; allowed: letters, digits, '.', '_' and '-'"
        )


def _paths(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Every setting that names a place on disk, absolute. A model or a judge that is no folder here is a hub's id."""
    yield "run.dir", str(Path(config.run.dir).absolute())
    yield "data.train", str(Path(config.data.train).absolute())
    if config.data.test:
        yield "data.test", str(Path(config.data.test).absolute())
    models = {"model.path": config.model.path, "reward.judge_path": config.reward.judge_path}
    models |= {f"evaluation.checkpoints.{name}": path for name, path in config.evaluation.checkpoints.items()}
    for key, path in models.items():
        if path and Path(path).exists():
            yield key, str(Path(path).absolute())


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and after it."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.job",
        description="Run a configuration on a Ray cluster; settings of the run come after --, as python -m launch.rl takes them.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="the run's TOML file, in the project's folder or where every node sees it")
    parser.add_argument(
        "--address", help="the cluster's dashboard, http://HOST:8265 (default: RAY_ADDRESS, or this machine's)"
    )
    parser.add_argument("--stage", default="all", help="up to and including this stage, from 1 (default: all)")
    parser.add_argument(
        "--attempt", type=int, help="this attempt and no other (default: the one that counts, or the next)"
    )
    parser.add_argument("--working-dir", default=".", help="the project's folder, which is uploaded (default: .)")
    parser.add_argument(
        "--stop-wait-s", type=int, default=1800, help="seconds that ray job stop leaves for the step and the checkpoint"
    )
    return parser


if __name__ == "__main__":
    main(run)
