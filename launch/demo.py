"""`python -m launch.demo`: from nothing to a report, on two CPU cores in minutes.

A tiny base model, synthetic problems planted in real text, warm-up SFT on short documents, staged GRPO on longer ones,
evaluation before and after, report.html. Each part is the command a user would give, and is printed before it runs.
With `--judge` a tiny judge is made first, and the run serves it and asks it what its rule did not accept.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson
from pydantic import Field

from data.synthesis.generate import SynthesisExample, make_problems
from data.synthesis.words import Split
from launch.cli import EXIT_CONFIG, Flag, load_config, main
from rl.config import Section
from rl.run_folder import write_file

CONFIGS = Path(os.path.relpath(Path(__file__).with_name("configs")))
SMALL = {
    "stages.0.steps": 2,
    "stages.1.steps": 2,
    "stages.2.steps": 2,
    "curriculum.problems_per_step": 4,
    "evaluation.problems_per_window": 8,
}
"""What `--small` changes: a run whose parts are all real and whose accuracy means nothing."""


class DemoConfig(Section):
    """The demo: what its data looks like. How it trains stands in launch/configs/demo_sft.toml and demo.toml."""

    dir: str = "runs/demo"
    """Folder of everything the demo makes."""
    seed: int = Field(default=0, ge=0)
    """Of the base model, the data, SFT and RL."""
    windows: list[int] = Field(default_factory=lambda: [160, 320, 480, 640, 800])
    """Upper bounds of the prompt lengths in tokens: SFT's, the RL stages', and one beyond."""
    num_sft: int = Field(default=6000, ge=1)
    """Examples for SFT, all in the first window."""
    num_train: int = Field(default=2200, ge=1)
    """RL problems per trained window."""
    num_test: int = Field(default=200, ge=1)
    """Held-out problems per window, whose keys no training problem has."""
    task: str = "chain"
    """Synthetic task: chain needs two facts that lie apart."""
    num_facts: int = Field(default=8, ge=2)
    """Facts planted in a document, the two needed ones included."""
    num_train_keys: int = Field(default=480, ge=8)
    """Keys in use in training; with few of them the model learns the names instead of looking them up."""
    num_test_keys: int = Field(default=160, ge=8)
    """Keys in use in the held-out problems."""


def run(argv: Sequence[str]) -> int:
    """Run every part in turn; returns the exit code of the first that fails."""
    flags = (
        Flag(name="small", doc="A few steps and problems only: shows that every part works, not what it learns."),
        Flag(name="judge", doc="Make a tiny judge (launch.tiny_judge) and score with rule and judge."),
    )
    command = load_config(DemoConfig, argv, prog="python -m launch.demo", flags=flags)
    config, started = command.config, time.monotonic()
    folder = Path(config.dir)
    if (folder / "summary.json").exists():
        print(f"{folder} holds a finished demo; remove it or name another folder with --dir", file=sys.stderr)
        return EXIT_CONFIG
    seconds: dict[str, float] = {}
    judge = folder / "judge" if command.is_on("judge") else None
    # A policy that does not know the form of an answer yet would leave the judge without a question.
    small = {} if not command.is_on("small") else {"train.max_steps": 60 if judge else 5}
    parts = {
        "base": ["launch.base", "--out", folder / "base", "--seed", config.seed],
        **({"judge": ["launch.tiny_judge", "--out", judge]} if judge else {}),
        "sft": ["launch.sft", CONFIGS / "demo_sft.toml", *_sft_options(config, small)],
        "rl": ["launch.rl", CONFIGS / "demo.toml", *_rl_options(config, SMALL if small else {}, judge)],
        "report": ["launch.report", folder],
    }
    for name, words in parts.items():
        if name == "sft":
            seconds["data"] = make_data(config)
        seconds[name], code = _call([str(word) for word in words])
        if code:
            return code
    _finish(folder, seconds, time.monotonic() - started)
    return 0


def make_data(config: DemoConfig) -> float:
    """Write sft.jsonl and the prepared sets data/train and data/test; returns the seconds it took."""
    from transformers import AutoTokenizer

    from data.prompts import PromptTemplate, count_prompt_tokens
    from data.synthesis.corpus import builtin_corpus
    from launch.sft_config import SftConfig
    from launch.toy_data import write_prepared, write_sft

    started = time.monotonic()
    folder = Path(config.dir)
    sft = load_config(SftConfig, [str(CONFIGS / "demo_sft.toml")], prog="python -m launch.sft").config
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    template, corpus = PromptTemplate(sft.data.template), builtin_corpus()
    lows = [0, *config.windows]

    def examples(split: Split, window: int, count: int) -> list[SynthesisExample]:
        made = make_problems(
            config.task,
            split=split,
            seed=config.seed,
            count=count,
            min_tokens=lows[window],
            max_tokens=config.windows[window],
            corpus=corpus,
            count_tokens=lambda problem: count_prompt_tokens(tokenizer, [problem], template)[0],
            num_facts=config.num_facts,
            num_keys=config.num_train_keys if split == "train" else config.num_test_keys,
        )
        return list(made)

    write_sft(folder / "sft.jsonl", examples("train", 0, config.num_sft))
    trained, tested = range(1, len(config.windows) - 1), range(len(config.windows))
    sets: dict[str, list[SynthesisExample]] = {
        "train": [e for window in trained for e in examples("train", window, config.num_train)],
        "test": [e for window in tested for e in examples("test", window, config.num_test)],
    }
    for name, made in sets.items():
        write_prepared(folder / "data" / name, made, tokenizer, template, config.windows)
    return time.monotonic() - started


def _sft_options(config: DemoConfig, more: dict[str, int]) -> list[str]:
    folder = Path(config.dir)
    paths = {"model.path": folder / "base", "model.out": folder / "sft", "data.train": folder / "sft.jsonl"}
    return _options({**paths, "train.seed": config.seed, **more})


def _rl_options(config: DemoConfig, more: dict[str, int], judge: Path | None) -> list[str]:
    folder = Path(config.dir)
    paths: dict[str, Path | int] = {
        "run.dir": folder,
        "model.path": folder / "sft",
        "data.train": folder / "data" / "train",
        "data.test": folder / "data" / "test",
        "evaluation.checkpoints.base": folder / "base",
        **({"reward.judge_path": judge} if judge else {}),
    }
    return _options({**paths, "run.seed": config.seed, **more})


def _options(values: dict[str, Path | int]) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def _call(words: list[str]) -> tuple[float, int]:
    """Run `python -m WORDS`, its output shown; returns seconds and exit code."""
    print(f"\n$ python -m {shlex.join(words)}", flush=True)
    started = time.monotonic()
    code = subprocess.run([sys.executable, "-m", *words], check=False).returncode
    return time.monotonic() - started, code


def _finish(folder: Path, seconds: dict[str, float], wall_s: float) -> None:
    """Put the whole demo's time into summary.json and print what came out."""
    path = folder / "summary.json"
    summary = orjson.loads(path.read_bytes())
    summary |= {"wall_s": wall_s, "parts_s": seconds}
    write_file(path, orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    accuracy = summary["accuracy"]
    windows = list(accuracy["final"])
    print(f"\nheld-out accuracy (greedy), {os.cpu_count()} cores, {wall_s:.0f} s: prompt tokens up to")
    print(f"{'':>10}" + "".join(f"{window:>8}" for window in windows))
    for checkpoint, by_window in accuracy.items():
        print(f"{checkpoint:>10}" + "".join(f"{by_window[window]:>8.2f}" for window in windows))
    print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    main(run)
