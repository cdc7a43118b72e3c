"""What the files that use Ray share: what it reads when it is imported, and what becomes of a call to an actor."""

from __future__ import annotations

import os
from typing import Any

if not os.environ.get("RAY_ADDRESS"):
    # Ray replaces 127.0.0.1 by the machine's own address, and listens on every interface, unless it thinks that no
    # cluster can be formed from here. It reads this at import, whatever the operating system, despite its name.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# A worker's traceback comes with the exception; Ray would print it to stdout as well. Read at import, too.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"Traceback \(most recent call last\)")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

CALL_RETRIES = 3
"""Times a call is made again after its process died, before the run gives up on it."""


class StaleWorker(RuntimeError):
    """The worker holds other weights than the call asks for: it was restarted since they were pushed."""


def call_result(ref: Any, what: str) -> Any:
    """The call's result; the worker's own error as it was raised there, a death as RuntimeError with Ray's cause."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, StaleWorker | ValueError):
            raise error.cause from None
        raise RuntimeError(f"{what}: {error.cause!r}") from error
    except RayActorError as error:
        raise RuntimeError(f"{what}: {cause_of_death(error)}") from error


def remote_error(ref: Any) -> RayError | None:
    """What a call that is over failed with: RayTaskError when it raised, else how its process ended; None: it returned."""
    try:
        ray.get(ref)
    except RayError as error:
        return error
    return None


def cause_of_death(error: RayActorError) -> str:
    """Why Ray gave up on an actor, in one line: its own error when it could not start, else how the process ended."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "creation task" in lines[0]:
        return f"it could not start: {lines[-1]}"
    return f"its process died {CALL_RETRIES + 1} times: {' '.join(lines)}"
