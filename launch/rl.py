"""`python -m launch.rl CONFIG.toml [--section.key value ...] [--dry-run] [--resume auto|never] [--stage K]`: staged GRPO.

On one machine this starts Ray in-process; under `ray job submit` the same command joins the cluster it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.cli import ConfigError, Flag, load_config, main
from rl.config import RunConfig

FLAGS = (
    Flag(
        name="dry-run", doc="Validate everything, print the resolved configuration and the stage plan, start nothing."
    ),
    Flag(
        name="resume",
        choices=("auto", "never"),
        doc="auto: go on from run.dir's newest valid checkpoint, or start where there is none; "
        "never: refuse a run.dir that already holds a run.",
    ),
    Flag(
        name="stage",
        choices=("all",),
        numbers=range(1, 1000),
        doc="Train up to and including this stage (1 is the first) and end with exit code 0; "
        "the same command with a later one, or with all, goes on.",
    ),
    Flag(
        name="gpu-gib",
        choices=("unknown",),
        numbers=range(1, 1025),
        doc="With --dry-run: memory of each GPU, in GiB; says what does not fit.",
    ),
)


def run(argv: Sequence[str]) -> int:
    """Validate, then train; returns the exit code."""
    command = load_config(RunConfig, argv, prog="python -m launch.rl", flags=FLAGS)
    config = command.config
    num_stages = stage_count(command.values["stage"], config)
    from rl.health import Health

    health = Health()
    if not command.is_on("dry-run"):
        health.listen()
    with health.interruptible("while it read model and data"):
        from rl.inputs import load_inputs

        inputs = load_inputs(config)
    if command.is_on("dry-run"):
        from rl.plan import describe_plan
        from rl.run_folder import config_toml

        print(config_toml(config.model_dump()))
        size = command.values["gpu-gib"]
        print(describe_plan(inputs, config, gpu_gib=None if size == "unknown" else float(size)))
        return 0
    from rl.plan import travelling_bytes
    from rl.rollout.weight_files import announce_size

    announce_size(travelling_bytes(inputs, config))
    from rl.run import open_run
    from rl.train import train

    with open_run(config, inputs, resume=command.values["resume"] == "auto", health=health) as opened:
        train(opened, num_stages=num_stages)
        if opened.curriculum.stage is not None:
            print(
                f"stage {num_stages} of {len(config.stages)} done: {config.run.dir}; a later --stage, or all, goes on"
            )
            return 0
        opened.finish()
    print(f"done: {config.run.dir}; see it with: python -m launch.report {config.run.dir}")
    return 0


def stage_count(stage: str, config: RunConfig) -> int:
    """How many stages `--stage` asks for.

    Raises:
        ConfigError: the run has no such stage.
    """
    if stage == "all":
        return len(config.stages)
    if stage not in map(str, range(1, len(config.stages) + 1)):
        raise ConfigError(
            f"command line: --stage: seen {stage!r}, allowed all | 1 to {len(config.stages)}, the run's stages"
        )
    return int(stage)


if __name__ == "__main__":
    main(run)
