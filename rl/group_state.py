"""Rollout groups as plain dicts and back: how surplus groups travel in a checkpoint's state.json.

Floats go through JSON unchanged: the shortest text that reads back as the same double.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from data.problem import DataError, Problem
from rewards.types import Score
from rl.types import Rollout, RolloutGroup


def group_to_dict(group: RolloutGroup) -> dict[str, Any]:
    """A JSON-able dict from which `group_from_dict` makes an equal group."""
    rollouts = [{**_plain(rollout), "score": _plain(rollout.score)} for rollout in group.rollouts]
    return {**_plain(group), "problem": _plain(group.problem), "rollouts": rollouts}


def group_from_dict(content: dict[str, Any]) -> RolloutGroup:
    """The group that `group_to_dict` was given.

    Raises:
        DataError: a field is missing, unknown or has an impossible value.
    """
    try:
        rollouts = tuple(
            Rollout(**{**_frozen(rollout), "score": Score(**rollout["score"])}) for rollout in content["rollouts"]
        )
        problem = Problem(**_frozen(content["problem"]))
        return RolloutGroup(**{**_frozen(content), "problem": problem, "rollouts": rollouts})
    except (KeyError, TypeError) as error:
        raise DataError(
            f"surplus group: not what this version writes ({error}); start from another checkpoint"
        ) from error


def _plain(record: Any) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _frozen(content: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
