"""The W&B workspace: every panel shows metrics that a run logs, over its step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from launch.dashboard import SECTIONS, pattern
from rl.glossary import GLOSSARY
from tests.rl.wandb_server import API_KEY, wandb_server

needs_workspaces = pytest.mark.skipif(find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed")
NOBODY = "http://127.0.0.1:9"


def test_every_panels_metrics_are_in_the_glossary() -> None:
    named = [metric for panels in SECTIONS.values() for _, metrics in panels for metric in metrics]
    assert set(named) <= set(GLOSSARY) and len(named) == len(set(named))
    assert list(SECTIONS) == [
        "KL", "entropy", "reward", "length", "curriculum", "health", "performance", "evaluation",
    ]  # fmt: skip


def test_a_panel_of_many_metrics_matches_those_and_no_others() -> None:
    accuracy = re.compile(pattern(["eval/<decoding>/<window>/accuracy"]))
    assert accuracy.search("eval/greedy/640/accuracy") and accuracy.search("eval/sampled/all/accuracy")
    assert not accuracy.search("eval/greedy/640/invalid_frac") and not accuracy.search("eval/greedy/a/b/accuracy")


def assert_whole(spec: dict[str, Any]) -> None:
    section = spec["section"]
    assert section["settings"]["xAxis"] == "step"
    shown = section["panelBankConfig"]["sections"]
    assert [part["name"] for part in shown] == list(SECTIONS)
    for part, panels in zip(shown, SECTIONS.values(), strict=True):
        assert part["localPanelSettings"]["xAxis"] == "step"
        configs = [panel["config"] for panel in part["panels"]]
        assert [(c["chartTitle"], c["xAxis"]) for c in configs] == [(title, "step") for title, _ in panels]
        for config, (_, metrics) in zip(configs, panels, strict=True):
            assert config.get("metricRegex") == pattern(metrics) or config["metrics"] == metrics


def run(*arguments: str, base_url: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = kept | {"WANDB_BASE_URL": base_url, "WANDB_API_KEY": API_KEY, "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "launch.dashboard", "--entity", "team", "--project", "p", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


@needs_workspaces
def test_print_shows_it_without_network() -> None:
    done = run("--print", base_url=NOBODY)
    assert (done.returncode, done.stderr) == (0, "")
    view = json.loads(done.stdout)
    assert (view["entity"], view["project"], view["displayName"]) == ("team", "p", "longreach")
    assert_whole(view["spec"])


@needs_workspaces
def test_the_view_is_saved() -> None:
    with wandb_server() as server:
        done = run("--name", "mine", base_url=server.url)
    assert done.returncode == 0, done.stderr
    [view] = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("team", "p", "mine")
    assert_whole(json.loads(view["spec"]))
    assert "/team/p" in done.stdout


@needs_workspaces
def test_a_server_that_refuses_ends_the_command_with_one_line_and_exit_3() -> None:
    with wandb_server(refuses=True) as server:
        done = run(base_url=server.url)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: W&B did not take the view for team/p") and done.stderr.count("\n") == 1
