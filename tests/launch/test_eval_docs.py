"""What docs/evaluation.md says exists, and its tables are of the form that the command prints."""

from __future__ import annotations

import re
from pathlib import Path

from launch.cli import help_text
from launch.eval_config import EvalConfig
from launch.eval_figures import table
from launch.eval_suites import SUITES, SuiteFile

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_every_key_that_the_page_names_exists() -> None:
    known = help_text(EvalConfig, prog="python -m launch.eval")
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    named = set(re.findall(r"`--([a-z_]+)", prose)) - {"help"}
    assert len(named) > 12
    assert all(f"--{name} " in known or f"  {name}  " in known for name in named), named


def test_every_suite_and_task_that_the_page_names_exists_and_none_is_missing() -> None:
    suites = {path.stem for path in SUITES.glob("*.toml")}
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named <= suites
    # What is not named itself is a member of longbench.
    assert suites - named == {"multifieldqa_en", "triviaqa", "passage_count", "passage_retrieval_en"}
    for task in re.findall(r"longreach_(\w+)", PAGE):
        assert (SUITES / "lm_eval" / f"{task}.yaml").is_file()


def test_the_limits_and_the_columns_of_the_page_are_those_of_the_code() -> None:
    limits = SuiteFile(about="")
    assert f"input to {limits.max_prompt_tokens:,} tokens, {limits.max_response_tokens:,} tokens of output" in PAGE
    assert f"temperature {limits.temperature}, top-p {limits.top_p}" in PAGE
    assert table([]) in PAGE
