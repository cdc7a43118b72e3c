"""`python -m launch.study`: what each part of the curriculum contributes, with seeds and error bars.

A start model and data per seed, then every variant of launch/study/study.toml on every seed: the same model, problems and
number of rollouts, side by side in as many lanes as cores, each part the command a user would give. The table, the
verdicts and the pictures come from the runs' own folders. What is finished is not run again, so that an interrupted study
goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from data.in_order import num_cores
from data.synthesis.cells import Cell
from launch.cli import EXIT_CONFIG, EXIT_DONE, ConfigError, Flag, load_config, main
from launch.study_curves import training_seconds
from launch.study_lanes import Part, run_lanes
from rl.config import Section

if TYPE_CHECKING:
    from launch.toy_data import Portion

CONFIGS = Path(os.path.relpath(Path(__file__).with_name("study")))
DOCS = Path(os.path.relpath(Path(__file__).parents[1] / "docs"))
HELD_OUT = 1_000_000
"""Added to a seed for its held-out problems."""
TRAINERS = {"ours": "launch.rl", "trl": "launch.study_trl"}


class VariantSection(Section):
    """One way to train, from the same start as the others."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Names its folders, one a seed."""
    title: str
    """Its line in the table."""
    config: str = "staged.toml"
    """TOML in launch/study."""
    trainer: str = Field(default="ours", pattern="^(ours|trl)$")
    """`ours`: launch.rl; `trl`: launch.study_trl."""
    overrides: list[str] = Field(default=[])
    """What differs from the TOML, each as `section.key=value`."""
    more_seeds: list[int] = Field(default=[])
    """Beside the study's: for a comparison that asks for narrower intervals."""
    with_base: bool = False
    """Evaluate the base model too, for the table's first line."""
    time_of: str = ""
    """With `trl`: the variant whose training seconds limit its own, seed by seed; empty: no limit."""
    time_factor: float = Field(default=2.0, gt=0.0)
    """How many times those seconds."""


class TaskSection(Section):
    """One kind of problem in the mix."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """The problems' task, the unit of balancing."""
    task: str = "chain"
    """What makes them: see `python -m data.synthesis --help`."""
    num_hops: int = Field(default=2, ge=2)
    """Facts in a chain."""
    share: float = Field(gt=0.0, le=1.0)
    """Of the problems of every window."""


class StudyConfig(Section):
    """The study: its data, seeds and variants. How each variant trains stands in the TOMLs beside launch/study/study.toml."""

    dir: str = "runs/study"
    """Folder of everything the study makes."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Each with a model, data, SFT and runs of its own."""
    lanes: int = Field(default=0, ge=0)
    """Runs side by side, each on its share of the cores; 0: one a core."""
    windows: list[int] = Field(min_length=3)
    """Upper bounds of the prompt lengths in tokens: SFT's, the RL stages', and one that is never trained."""
    num_facts: list[int]
    """Facts planted in a document, by window."""
    tasks: list[TaskSection] = Field(min_length=1)
    """The mix of tasks, in SFT, training and evaluation alike."""
    num_sft: int = Field(ge=1)
    """Examples for SFT, all in the first window."""
    num_train: int = Field(ge=1)
    """RL problems per window but the last."""
    num_test: int = Field(ge=1)
    """Held-out problems per window: other documents and other facts about the same people."""
    num_keys: int = Field(ge=8)
    """People in the problems."""
    target: float = Field(default=0.75, gt=0.0, le=1.0)
    """Accuracy in the last trained window whose time is told."""
    control: str
    """The variant that the others are compared with."""
    variants: list[VariantSection] = Field(min_length=1)
    """In the table's order."""

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        if len(self.num_facts) != len(self.windows):
            raise ValueError(
                f"num_facts: {len(self.num_facts)} values for {len(self.windows)} windows; give one a window"
            )
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names) or self.control not in names:
            raise ValueError(f"variants: {names} must be different names, control={self.control!r} one of them")
        for i, variant in enumerate(self.variants):
            if variant.time_of and (variant.trainer != "trl" or variant.time_of not in names[:i]):
                raise ValueError(
                    f"variants.{i}.time_of: seen {variant.time_of!r}, allowed: a variant before it, of {names[:i]}, for a "
                    "variant with trainer 'trl'"
                )
        return self

    def seeds_of(self, variant: VariantSection) -> list[int]:
        """The seeds that a variant runs on, the study's first."""
        return [*self.seeds, *(seed for seed in variant.more_seeds if seed not in self.seeds)]

    def all_seeds(self) -> list[int]:
        """Those of any variant, each once."""
        return list(dict.fromkeys([*self.seeds, *(s for variant in self.variants for s in self.seeds_of(variant))]))

    def seed_folder(self, seed: int) -> Path:
        """Start model and data of a seed."""
        return Path(self.dir) / f"seed-{seed}"

    def run_folder(self, variant: str, seed: int) -> Path:
        """One run."""
        return Path(self.dir) / f"{variant}-{seed}"


def run(argv: Sequence[str]) -> int:
    """Run what is missing, then write and print the result; returns the first exit code that is not 0."""
    flags = (
        Flag(name="docs", doc="Also put the table and the pictures into docs/study.md."),
        Flag(name="report-only", doc="Run nothing: tell what the folder holds."),
    )
    words = list(argv) if any(word.endswith(".toml") for word in argv[:1]) else [str(CONFIGS / "study.toml"), *argv]
    command = load_config(StudyConfig, words, prog="python -m launch.study", flags=flags)
    config, started = command.config, time.monotonic()
    if not command.is_on("report-only"):
        cores = num_cores()
        lanes = min(config.lanes or cores, cores)
        code = _run_parts(config, lanes=lanes, threads=cores // lanes)
        if code != EXIT_DONE:
            return code
    from launch.study_report import write_study

    page = write_study(config, wall_s=time.monotonic() - started, docs=DOCS if command.is_on("docs") else None)
    if page is None:
        print(f"{config.dir}: no variant has a finished run; run python -m launch.study", file=sys.stderr)
        return EXIT_CONFIG
    print(page.read_text(encoding="utf-8"))
    return EXIT_DONE


def _run_parts(config: StudyConfig, *, lanes: int, threads: int) -> int:
    """Base models first, then data, SFT and the variants, every seed of one before the next."""
    seeds = config.all_seeds()
    base = [_base_part(config, seed, threads) for seed in seeds]
    if code := run_lanes(base, lanes, threads):
        return code
    for seed in seeds:
        make_data(config, seed)
    if code := run_lanes([_sft_part(config, seed, threads) for seed in seeds], lanes, threads):
        return code
    for limited in (False, True):  # a limited one needs the time of another
        variants = [variant for variant in config.variants if bool(variant.time_of) == limited]
        parts = [training_part(config, v, seed, threads) for v in variants for seed in config.seeds_of(v)]
        if code := run_lanes(parts, lanes, threads):
            return code
    return EXIT_DONE


def _base_part(config: StudyConfig, seed: int, threads: int) -> Part:
    folder = config.seed_folder(seed)
    words = [
        "launch.base",
        "--out",
        folder / "base",
        "--seed",
        seed,
        "--threads",
        threads,
        "--train_keys",
        config.num_keys,
    ]
    return Part(name=f"base-{seed}", words=words, done=folder / "base" / "config.json", log=folder / "base.log")


def _sft_part(config: StudyConfig, seed: int, threads: int) -> Part:
    folder = config.seed_folder(seed)
    paths = ["--model.path", folder / "base", "--model.out", folder / "sft", "--data.train", folder / "sft.jsonl"]
    words = ["launch.sft", CONFIGS / "sft.toml", *paths, "--train.seed", seed, "--train.threads", threads]
    return Part(name=f"sft-{seed}", words=words, done=folder / "sft" / "config.json", log=folder / "sft.log")


def training_part(config: StudyConfig, variant: VariantSection, seed: int, threads: int) -> Part:
    """One variant on one seed; a limited one needs the finished run that limits it."""
    start, folder = config.seed_folder(seed), config.run_folder(variant.name, seed)
    paths = ["--run.dir", folder, "--model.path", start / "sft"]
    data = ["--data.train", start / "data" / "train", "--data.test", start / "data" / "test"]
    rest: list[object] = ["--run.seed", seed, "--learner.threads", threads, "--rollout.threads", threads]
    if variant.with_base:
        rest += ["--evaluation.checkpoints.base", start / "base"]
    if variant.time_of:
        seconds = variant.time_factor * training_seconds(config.run_folder(variant.time_of, seed))
        rest += ["--trl.max_train_s", f"{seconds:.1f}"]
    words = [TRAINERS[variant.trainer], CONFIGS / variant.config, *variant.overrides, *paths, *data, *rest]
    log = folder.with_suffix(".log")
    return Part(name=f"{variant.name}-{seed}", words=words, done=folder / "summary.json", log=log)


def make_data(config: StudyConfig, seed: int) -> None:
    """sft.jsonl, data/train and data/test of one seed, unless they are there."""
    folder = config.seed_folder(seed)
    if (folder / "data" / "test" / "manifest.json").exists():
        return
    import random

    from transformers import AutoTokenizer

    from data.prompts import PromptTemplate
    from data.synthesis.corpus import builtin_corpus
    from data.synthesis.workers import Source
    from launch.sft_config import SftConfig
    from launch.toy_data import make_portions, write_prepared, write_sft

    sft = load_config(SftConfig, [str(CONFIGS / "sft.toml")], prog="python -m launch.sft").config
    if sft.data.max_prompt_tokens != config.windows[0]:
        raise ConfigError(
            f"windows: {config.windows[0]} is not data.max_prompt_tokens={sft.data.max_prompt_tokens} of "
            f"{CONFIGS / 'sft.toml'}; SFT is to see the first window"
        )
    tokenizer, template = AutoTokenizer.from_pretrained(folder / "base"), PromptTemplate(sft.data.template)
    source = Source(corpus=builtin_corpus(), tokenizer=tokenizer, template=template)
    examples = make_portions(_portions(config, seed, 0, config.num_sft), source)
    random.Random(seed).shuffle(examples)
    write_sft(folder / "sft.jsonl", examples)
    last = len(config.windows) - 1
    train = [p for window in range(last) for p in _portions(config, seed, window, config.num_train)]
    test = [p for window in range(last + 1) for p in _portions(config, seed + HELD_OUT, window, config.num_test)]
    for name, portions in (("train", train), ("test", test)):
        write_prepared(folder / "data" / name, make_portions(portions, source), tokenizer, template, config.windows)


def _portions(config: StudyConfig, seed: int, window: int, count: int) -> list[Portion]:
    """`count` problems of one window, by the tasks' shares."""
    from launch.toy_data import Portion

    return [
        Portion(
            cell=Cell(
                task=task.task,
                split="train",
                seed=seed,
                min_tokens=config.windows[window - 1] if window else 0,
                max_tokens=config.windows[window],
                num_facts=config.num_facts[window],
                num_keys=config.num_keys,
                num_hops=task.num_hops,
            ),
            task=task.name,
            count=round(count * task.share),
        )
        for task in config.tasks
    ]


if __name__ == "__main__":
    main(run)
