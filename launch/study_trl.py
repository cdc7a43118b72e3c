"""`python -m launch.study_trl CONFIG.toml [--section.key value ...]`: the study's other side, TRL's GRPOTrainer.

It takes the TOML of `python -m launch.rl`: the same model, problems, prompts, stages, rollouts, reward and evaluation.
Its folder is a run's: config.toml, metrics.jsonl, evaluations/, summary.json, and the last model in model/. Accuracy over time
is in summary.json's `curve`, every evaluation.every_steps steps, with the seconds of training alone behind each point.
Left out: checkpoints on the way, hence resuming; and what launch/study_trl_config.py names.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cli import load_config, main
from launch.study_trl_config import WITHOUT_EFFECT, StudyTrlConfig, refuse_what_trl_cannot

if TYPE_CHECKING:
    from launch.study_trl_record import Study
    from rl.inputs import Inputs


def run(argv: Sequence[str]) -> int:
    """Validate, then evaluate, train with TRL, and evaluate at every stage's end; returns the exit code.

    Raises:
        EngineMissing: vLLM is asked for and not installed.
    """
    config = load_config(StudyTrlConfig, argv, prog="python -m launch.study_trl").config
    refuse_what_trl_cannot(config)
    from rl.rollout.choose import engine_name
    from rl.rollout.environment import engine_environment

    if config.trl.generation == "vllm":
        engine_name(config.rollout.model_copy(update={"engine": "vllm"}), key="trl.generation")
    if engine_name(config.rollout) == "vllm":  # read once, when torch and vLLM are imported, which the next line begins
        os.environ.update(engine_environment(config.rollout.threads or num_cores(), cuda=False))
    from rl.inputs import InputError, load_inputs

    inputs = load_inputs(config)
    folder = Path(config.run.dir)
    if (folder / "metrics.jsonl").exists():
        raise InputError(f"run.dir: {folder} holds a run already, and this command cannot resume; name another folder")
    with open_study(config, inputs, folder) as study:
        print(f"TRL's GRPOTrainer: {study.settings()}; without effect: {WITHOUT_EFFECT}", flush=True)
        study.train()
        print(f"done: {folder}; {study.train_s:.1f} s of training, peak memory {study.peak_memory_gib():.1f} GiB")
    return 0


@contextmanager
def open_study(config: StudyTrlConfig, inputs: Inputs, folder: Path) -> Iterator[Study]:
    """The engine, the scorer and TRL's trainer, in this process, whose environment is the engine's; ended afterwards.

    Raises:
        ModuleNotFoundError: trl is not installed.
    """
    import torch
    from transformers.trainer_callback import PrinterCallback
    from transformers.utils.logging import disable_progress_bar

    from data.prompts import opens_thinking
    from launch.study_trl_record import Recorder, Study
    from launch.study_trl_trainer import StudyTrainer
    from rewards.service import build_scorer
    from rl.metrics import MetricsLog
    from rl.rollout.choose import build_engine, engine_name
    from rl.run_folder import git_commit, installed_versions, write_config
    from rl.scoring import scorer_config

    disable_progress_bar()
    thinks = opens_thinking(inputs.tokenizer, inputs.train[0], inputs.template)
    meta = {"versions": installed_versions(), "commit": git_commit(Path(__file__).parent), "pid": os.getpid()}
    write_config(folder, config.model_dump(exclude={"trl"}), meta | {"trl": config.trl.model_dump()})
    with ExitStack() as opened:
        scorer = build_scorer(scorer_config(config, require_closed_think=thinks))
        opened.callback(scorer.close)
        threads = config.rollout.threads or num_cores()
        engine = build_engine(config.model.path, config.model.dtype, config.rollout, inputs.max_model_len, threads)
        opened.callback(engine.close)
        torch.set_num_threads(config.learner.threads or num_cores())
        samples = engine_name(config.rollout) == "vllm" and config.trl.generation != "transformers"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions and settings that are these on purpose
            trainer = StudyTrainer(config, inputs, scorer, folder, engine=engine if samples else None)
        trainer.remove_callback(PrinterCallback)
        log = MetricsLog(folder, config.tracking, config.model_dump(), None)
        opened.callback(log.close)
        study = Study(
            config=config, inputs=inputs, folder=folder, engine=engine, scorer=scorer, trainer=trainer, log=log
        )
        trainer.add_callback(Recorder(study))
        yield study


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main(run)
