"""A scorer from its configuration, the built-in ones and one of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data.problem import Question
from rewards.hybrid import HybridScorer, RuleScorer
from rewards.service import ScorerConfig, build_scorer, require_module
from rl.config import DataSection, ModelSection, RewardSection, RunConfig, RunSection, StageSection
from rl.scoring import JUDGE_CACHE, scorer_config
from tests.rewards.cases import ask

OWN = """
from rewards.rules import judge_by_rule
from rewards.rules.types import RuleVerdict
from rewards.service import rule_or_hybrid

def by_year(answer, question):
    if not question.question.startswith("When"):
        return judge_by_rule(answer, question)
    same = answer[-4:] in question.answers
    return RuleVerdict(accepted=same, readable=True, reason="year: the last four characters")

def build(config):
    return rule_or_hybrid(config, rule=by_year)

no_function = 7
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    return "own_rewards"


def test_a_factory_makes_a_scorer_with_a_rule_of_its_own(own_module: str) -> None:
    scorer = build_scorer(ScorerConfig(factory=f"{own_module}:build"))
    questions = [Question(question=q, answers=("1914",), answer_type="text") for q in ("When?", "How many?")]
    scores = scorer.score([(question, "the answer is 28 July 1914") for question in questions])
    assert [score.value for score in scores] == [1.0, 0.0]


def test_looking_for_a_module_does_not_run_it(own_module: str) -> None:
    require_module(f"{own_module}:build")
    assert own_module not in sys.modules


@pytest.mark.parametrize(
    "name", ["own_rewards:no_function", "own_rewards:missing", "nowhere:build", "own_rewards", ":x", "a.b.c:d"]
)
def test_a_factory_that_is_none_is_refused_by_name(own_module: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"scorer '{name}': .*name"):
        build_scorer(ScorerConfig(factory=name))


def test_without_a_judge_rules_with_one_both() -> None:
    rule = build_scorer(ScorerConfig())
    hybrid = build_scorer(ScorerConfig(judge_url="http://127.0.0.1:9/v1", judge_model="m"))
    hybrid.close()
    assert type(rule) is RuleScorer and type(hybrid) is HybridScorer
    assert rule.score([(ask("Ada"), "Ada")])[0].value == 1.0


def test_a_runs_workers_share_the_judges_concurrency_and_its_cache(tmp_path: Path) -> None:
    reward = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "m", "judge_concurrency": 64, "workers": 3}
    config = RunConfig(
        run=RunSection(dir=str(tmp_path)),
        model=ModelSection(path="m"),
        data=DataSection(train="t"),
        stages=[StageSection(max_prompt_tokens=10, steps=1)],
        reward=RewardSection.model_validate(reward),
    )
    made = scorer_config(config, require_closed_think=True)
    assert (made.judge_concurrency, made.judge_cache) == (21, str(tmp_path / JUDGE_CACHE))
    assert made.second_opinion and made.canaries_per_batch == 8 and made.require_closed_think
    off = config.model_copy(update={"reward": RewardSection.model_validate({**reward, "judge_cache": False})})
    assert scorer_config(off, require_closed_think=False).judge_cache == ""
