"""What a rule says about one answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleVerdict:
    """One rule's verdict; a rule accepts only what it could read on both sides."""

    accepted: bool
    """The answer equals one of the accepted answers."""
    readable: bool
    """The answer could be read as the type it should have; an unreadable one is wrong for no value of the gold."""
    reason: str
    """For people: what was read and what it was compared with."""
    is_one_answer: bool = True
    """False for several candidates, a denial, or words addressed to the judge: value 0, and no judge is asked."""
    is_settled: bool = False
    """Both sides were read as one plain value and the values differ: value 0, and a judge has nothing to add."""

    def __post_init__(self) -> None:
        if self.accepted and (self.is_settled or not (self.readable and self.is_one_answer)):
            raise ValueError(f"RuleVerdict: accepted, but not readable as one answer ({self.reason})")
