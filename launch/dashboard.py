"""`python -m launch.dashboard --entity E --project P [--name N] [--print]`: a W&B workspace for the runs of a project.

Its panels are rl/glossary.py's metrics by question, over `step`. `--print` shows it as JSON, without network or login.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from launch.cli import EnvironmentFault
from launch.cli import main as run_command

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

SECTIONS: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = {
    "KL": [
        ("sampler against learner", ["policy/kl_sampler"]),
        ("the same, largest token", ["policy/kl_sampler_max"]),
        ("policy against start model", ["policy/kl_ref"]),
        ("policy since the surplus groups", ["policy/kl_stale"]),
    ],
    "entropy": [
        ("entropy", ["policy/entropy"]),
        ("clipped tokens", ["loss/clip_frac"]),
        ("negatives left out", ["loss/num_masked_negatives"]),
    ],
    "reward": [
        ("reward", ["reward/mean"]),
        ("by task", ["reward/<task>/mean"]),
        ("accepted by rule, by judge alone", ["reward/rule_mean", "reward/judge_mean"]),
        ("wins by the judge alone", ["reward/judge_only_win_frac"]),
        ("without a score", ["reward/invalid_frac"]),
    ],
    "length": [
        ("response tokens", ["rollout/response_tokens_mean"]),
        ("truncated", ["rollout/truncated_frac"]),
        ("prompt tokens", ["rollout/prompt_tokens_mean", "curriculum/max_prompt_tokens"]),
    ],
    "curriculum": [
        ("stage", ["curriculum/stage"]),
        ("replayed, short", ["curriculum/replay_frac", "curriculum/short_frac"]),
        ("replay pool, parked", ["curriculum/pool_size", "curriculum/parked"]),
        ("difficulty", ["curriculum/difficulty_mean"]),
        ("dead groups", ["curriculum/dead_group_frac"]),
        ("problems by reward", ["curriculum/visited_by_reward/<bin>"]),
    ],
    "health": [
        ("alarms", ["health/alarm/<name>"]),
        ("gradient norm", ["optim/grad_norm"]),
        ("updates left out, metrics not finite", ["health/skipped_updates", "health/num_nonfinite"]),
        ("judge: breaker, canaries", ["judge/breaker_open", "judge/canary_alarm"]),
        ("weight sync", ["policy/sync_probe_max_diff"]),
    ],
    "performance": [
        ("tokens per second", ["perf/tokens_per_s"]),
        ("seconds", ["time/step_s", "time/rollout_s", "time/learn_s", "time/sync_s", "time/eval_s"]),
        ("judge latency", ["judge/latency_p50_s", "judge/latency_p95_s"]),
    ],
    "evaluation": [
        ("accuracy by window", ["eval/<decoding>/<window>/accuracy"]),
        ("without a score", ["eval/<decoding>/<window>/invalid_frac"]),
        ("response tokens", ["eval/<decoding>/<window>/mean_response_tokens"]),
    ],
}
"""Section -> (title, metrics of the glossary) of each panel; `<...>` stands for any one word."""


def build(entity: str, project: str, name: str) -> Workspace:
    """The workspace, not yet saved.

    Raises:
        EnvironmentFault: wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces.reports.v2.interface import LinePlot
        from wandb_workspaces.workspaces import Section, SectionPanelSettings, Workspace, WorkspaceSettings
    except ImportError as error:
        raise EnvironmentFault(f"wandb-workspaces: {error}; pip install wandb-workspaces") from None

    def panel(title: str, metrics: Sequence[str]) -> LinePlot:
        if any("<" in metric for metric in metrics):
            return LinePlot(title=title, x="step", metric_regex=pattern(metrics))
        return LinePlot(title=title, x="step", y=list(metrics))

    sections = [
        Section(
            name=section,
            panels=[panel(title, metrics) for title, metrics in panels],
            is_open=True,
            panel_settings=SectionPanelSettings(x_axis="step"),
        )
        for section, panels in SECTIONS.items()
    ]
    return Workspace(
        entity=entity, project=project, name=name, sections=sections, settings=WorkspaceSettings(x_axis="step")
    )


def pattern(metrics: Sequence[str]) -> str:
    """A regular expression for metrics of the glossary."""
    return "|".join(f"^{re.sub('<[a-z]+>', '[^/]+', metric)}$" for metric in metrics)


def main(argv: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m launch.dashboard", description="Create a W&B workspace.")
    parser.add_argument("--entity", required=True, help="user or team that owns the project")
    parser.add_argument("--project", required=True, help="as in tracking.project")
    parser.add_argument("--name", default="longreach", help="the view's name (default: longreach)")
    parser.add_argument("--print", action="store_true", help="print it as JSON instead, without network or login")
    arguments = parser.parse_args(argv)
    workspace = build(arguments.entity, arguments.project, arguments.name)
    if arguments.print:
        print(json.dumps(workspace._spec, indent=2))
        return
    import wandb

    try:
        workspace.save()
    except (wandb.Error, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EnvironmentFault(
            f"W&B did not take the view for {arguments.entity}/{arguments.project} ({reason}); check the names and "
            "`wandb login`, or see it with --print"
        ) from None
    print(workspace.url)


if __name__ == "__main__":
    run_command(main)
