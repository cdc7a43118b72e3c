"""The export's README.md: a model card in the Hub's form, with the run's own figures and no others.

What is not known says so. No text that a model wrote stands in it, and no path of the machine it was trained on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.read_hub import parsed_hub_id
from data.read_modelscope import is_modelscope
from launch.export_check import CheckResult
from launch.export_source import ExportSource
from rl.config import RunConfig
from rl.evaluate import wilson_interval
from rl.metrics import read_metrics
from rl.run_folder import Evaluation, WindowAccuracy

if TYPE_CHECKING:
    from jinja2 import Template

UNKNOWN = "unknown"
MAX_ORIGINS = 5
"""Links of a chain of SFTs that are followed, should one lead back to itself."""
START = "sft"
"""The name under which a run evaluates its start model."""


def model_card(
    source: ExportSource, check: CheckResult, *, name: str, license_id: str, dtype: str, serve: str, ask: str
) -> str:
    """The whole README.md.

    Args:
        license_id: as the Hub names licences; empty: unknown.
        serve, ask: what a reader types to serve and to ask; `ask` may be empty.
    """
    from huggingface_hub import ModelCardData

    metrics = read_metrics(source.run_dir / "metrics.jsonl") if source.run_dir else []
    steps = [row for row in metrics if row["step"] <= source.manifest.step]
    before, after = before_and_after(source.evaluations, source.manifest.step)
    rows = accuracy_rows(before, after)
    origin = origins(source.config.model.path)[-1] if source.config else ""
    front = ModelCardData(
        base_model=origin if is_hub_id(origin) else None,
        library_name="transformers",
        license=license_id or UNKNOWN,
        pipeline_tag="text-generation",
        tags=["grpo", "long-context", "longreach", "reinforcement-learning"],
    ).to_yaml()
    body = _template().render(
        name=cell(name),
        facts={fact: cell(value) for fact, value in _facts(source, steps, dtype).items()},
        before=cell(before.checkpoint) if before else "",
        step=source.manifest.step,
        rows=rows,
        sampled=any(row["sampled_after"] != UNKNOWN for row in rows),
        no_accuracy="This checkpoint was not evaluated, or its start model was not: accuracy is unknown.",
        stages=_stages(source.config, steps) if source.config else [],
        serve=serve,
        ask=ask.rstrip("\n"),
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", serve + ask)), default=0)),
        check=asdict(check),
    )
    return f"---\n{front}\n---\n\n{body}\n"


def is_hub_id(path: str) -> bool:
    """Whether a model's path is a Hugging Face id: `owner/name`, and no folder here to which that could lead."""
    parsed = parsed_hub_id(path)
    return parsed is not None and parsed.name == path and not Path(path).parent.exists()


def origins(path: str) -> list[str]:
    """The start model's path, then what it was made from by python -m launch.sft, as far as its sft.json tells."""
    found = [path]
    while len(found) < MAX_ORIGINS:
        try:
            found.append(str(json.loads((Path(found[-1]) / "sft.json").read_bytes())["config"]["model"]["path"]))
        except (OSError, ValueError, KeyError, TypeError):
            break
    return found


def before_and_after(evaluations: Sequence[Evaluation], step: int) -> tuple[Evaluation | None, Evaluation | None]:
    """What the start model and what the weights of this very step were evaluated at; None where they were not."""
    before = next((e for e in evaluations if e.checkpoint == START), None)
    after = next((e for e in evaluations if e.step == step and step > 0), None)
    return before, after


def accuracy_rows(before: Evaluation | None, after: Evaluation | None) -> list[dict[str, str]]:
    """A row of text per window that both were asked, ascending."""
    if before is None or after is None:
        return []
    shared = sorted(before.windows.keys() & after.windows.keys(), key=int)
    return [_row(bound, before.windows[bound], after.windows[bound]) for bound in shared]


def _row(bound: str, before: WindowAccuracy, after: WindowAccuracy) -> dict[str, str]:
    low, high = wilson_interval(after.greedy, after.num) if after.num else (0.0, 1.0)
    return {
        "window": f"{int(bound):,}",
        "num": str(after.num) if after.num else UNKNOWN,
        "before": _share(before.greedy),
        "after": _share(after.greedy),
        "interval": f"{low:.3f} to {high:.3f}" if after.num else UNKNOWN,
        "sampled_before": _share(before.sampled),
        "sampled_after": _share(after.sampled),
    }


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _facts(source: ExportSource, steps: Sequence[Mapping[str, Any]], dtype: str) -> dict[str, str]:
    manifest, config, meta = source.manifest, source.config, source.meta
    versions = ", ".join(f"{package} {version}" for package, version in manifest.versions.items())
    return {
        "start model": _start_model(config),
        "step": f"{manifest.step} of {sum(stage.steps for stage in config.stages)}" if config else str(manifest.step),
        "weights": f"{dtype}, safetensors" + (", adapters merged" if config and config.learner.lora_rank else ""),
        "reward": _reward(config),
        "mean reward in training, each step in its stage's window": _mean_reward(steps),
        "seed": str(config.run.seed) if config else UNKNOWN,
        "training data": f"fingerprint {manifest.dataset_fingerprint}" if manifest.dataset_fingerprint else UNKNOWN,
        "commit": str(meta.get("commit") or UNKNOWN),
        "versions": versions or UNKNOWN,
    }


def _start_model(config: RunConfig | None) -> str:
    if config is None:
        return UNKNOWN
    # Of a folder its name alone: where it lay is nobody else's business.
    return ", made by SFT from ".join(
        path if is_hub_id(path) or is_modelscope(path) else f"{Path(path).name} (a local folder)"
        for path in origins(config.model.path)
    )


def _reward(config: RunConfig | None) -> str:
    if config is None:
        return UNKNOWN
    if config.reward.scorer:
        return f"a scorer of the run's own, {config.reward.scorer}"
    judge = config.reward.judge_model or Path(config.reward.judge_path).name
    return f"max(rule, judge {judge})" if judge else "the rule alone"


def _mean_reward(steps: Sequence[Mapping[str, Any]]) -> str:
    """Over the first and over the last tenth of the steps that led to this checkpoint."""
    rewards = [row["reward/mean"] for row in steps if row.get("reward/mean") is not None]
    if not rewards:
        return UNKNOWN
    tenth = max(1, len(rewards) // 10)
    first, last = sum(rewards[:tenth]) / tenth, sum(rewards[-tenth:]) / tenth
    return f"{first:.3f} in the first {tenth} of {len(rewards)} steps, {last:.3f} in the last {tenth}"


def _stages(config: RunConfig, steps: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The configured stages, and how many of each one's planned steps led to this checkpoint."""
    done = Counter(row.get("curriculum/stage") for row in steps)
    rows = []
    for index, stage in enumerate(config.stages):
        low, high = config.window(index)
        replay = config.curriculum.replay_frac if stage.replay_frac is None else stage.replay_frac
        rows.append(
            {
                "window": f"{low:,} to {high:,}",
                "steps": f"{done[index] if steps else UNKNOWN} of {stage.steps}",
                "response": f"{stage.max_response_tokens:,}",
                "lr": f"{stage.lr or config.learner.lr:g}",
                "replay": f"{100 * replay:.0f} %",
            }
        )
    return rows


def cell(text: Any) -> str:
    """Text that can only be text in a Markdown table: one line, with nothing that starts markup."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", line)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Not HTML, so no autoescaping: what comes from the run goes through `cell`, or into a fence longer than any in it.
    environment = Environment(
        loader=PackageLoader("launch", "templates"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("model_card.md")
