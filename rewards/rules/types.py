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

    def __post_init__(self) -> None:
        if self.accepted and not self.readable:
            raise ValueError(
                f"RuleVerdict: accepted but not readable ({self.reason}); a rule accepts only what it read"
            )
