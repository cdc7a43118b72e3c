"""How much memory of this process is resident, now and at most, as Linux's /proc tells it."""

from __future__ import annotations

from pathlib import Path


def resident_bytes() -> int | None:
    """Now; None where the system does not tell."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int | None:
    """At most, since the process began or `restart_peak` was called; None where the system does not tell."""
    return _status_bytes("VmHWM")


def restart_peak() -> bool:
    """Let the peak begin at what is resident now; whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
