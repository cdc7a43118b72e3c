"""What the task files call: the suite's problems, the prompt, and both scores. The harness loads this file by its path.

Left out: a judge, and formulas compared as formulas; the strict score is the rule's alone.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from data.problem import SourceProblem
from data.prompts import L1_PROMPT, cut_middle
from launch.eval_lenient import lenient_value
from launch.eval_suites import SuiteFile, named_problems
from rewards.hybrid import RuleScorer

_MAX_PROMPT_TOKENS = SuiteFile.model_fields["max_prompt_tokens"].default
_FIELDS = tuple(field.name for field in fields(SourceProblem))


def problems(
    suite: str,
    *,
    suite_dir: str = "",
    tokenizer: str = "",
    pretrained: str = "",
    max_prompt_tokens: int = _MAX_PROMPT_TOKENS,
    **_: Any,
) -> dict[str, Any]:
    """The split `test`: a suite's problems, too long ones cut in the document's middle.

    Args:
        suite: its name in `launch/suites`.
        suite_dir: folder with its rows; empty: the Hub. Given as `--metadata '{"suite_dir": "..."}'`.
        tokenizer: counts and cuts; else `pretrained`, which the harness passes on from `--model_args`; neither: nothing is cut.

    Raises:
        DataError: rows that cannot be read.
    """
    from datasets import Dataset

    found: list[SourceProblem] = list(named_problems(suite, suite_dir))
    if name := tokenizer or pretrained:
        from rl.inputs import load_tokenizer

        loaded = load_tokenizer(name)
        found = [cut_middle(loaded, problem, L1_PROMPT, max_prompt_tokens) for problem in found]
    return {"test": Dataset.from_list([{name: getattr(problem, name) for name in _FIELDS} for problem in found])}


def prompt(doc: dict[str, Any]) -> str:
    """The user turn; the harness adds the chat template (`--apply_chat_template`)."""
    return L1_PROMPT.render(_problem(doc))


def gold(doc: dict[str, Any]) -> str:
    """The first accepted answer, for the harness's logs."""
    return str(doc["answers"][0])


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`strict` and `lenient` of one response, by the rules of `launch.eval`."""
    problem, response = _problem(doc), results[0]
    strict = _scorer().score([(problem, response)])[0].value
    lenient = lenient_value(strict, response, problem)
    if strict is None or lenient is None:  # the rule alone always decides; an unknown must not become a zero here
        raise RuntimeError(f"{problem.problem_id}: no score, although nothing but the rule was asked")
    return {"strict": strict, "lenient": lenient}


@cache
def _scorer() -> RuleScorer:
    return RuleScorer()


def _problem(doc: dict[str, Any]) -> SourceProblem:
    values = {name: doc[name] for name in _FIELDS}
    return SourceProblem(**values | {"answers": tuple(doc["answers"]), "options": tuple(doc["options"])})
