"""The mirror of metrics.jsonl in Weights & Biases, online or as files for `wandb sync`.

Every step goes there once, under its own number. After a kill, W&B may hold fewer steps than metrics.jsonl (it writes its
files late) or more (steps that are done again from the last checkpoint). So a run that comes back asks
what is there, the server or its own files, sends what is missing, and leaves out what is done again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rl.config import TrackingSection
from rl.run_folder import write_file
from rl.samples import COLUMNS, sample_rows
from rl.tracker import FAILURES, Tracker
from rl.wandb_files import repair_files

ID_FILE = "wandb_run_id"
FINISH_TIMEOUT_S = 120
"""A server that is gone must not keep a run from ending; W&B's own process looks after this."""
ANSWER_TIMEOUT_S = 130
"""Nor must that process, when it hangs: it has this long for any call."""
FLUSH_S = 1.0
"""How late W&B may write its files; its own 15 s lose more to a kill."""
SAMPLES = "samples"


class Service(Protocol):
    """The part of a `wandb.Run` that the mirror uses."""

    def log(self, data: dict[str, Any], *, step: int, commit: bool) -> None: ...

    def finish(self) -> None: ...


class WandbRun:
    """Steps after `last_step`, each once."""

    def __init__(self, service: Service, *, last_step: int, sample_every: int) -> None:
        self._service = service
        self._last_step = last_step
        self._sample_every = sample_every

    def log(self, row: Mapping[str, Any], rollouts: Path | None) -> None:
        """Send a step's row, and a table of its answers when one is due.

        Raises:
            TimeoutError: as `finish`.
        """
        step = row["step"]
        if step <= self._last_step:
            return
        data = dict(row)
        if rollouts is not None and self._sample_every and step % self._sample_every == 0:
            import wandb

            data[SAMPLES] = wandb.Table(columns=list(COLUMNS), data=sample_rows(rollouts))
        _bounded(lambda: self._service.log(data, step=step, commit=True))
        self._last_step = step

    def finish(self) -> None:
        """Send what is left.

        Raises:
            TimeoutError: W&B's own process does not answer; it is ended.
        """
        _bounded(self._service.finish)


def _bounded(call: Callable[[], None]) -> None:
    """Make the call in a thread: W&B waits for its own process without end, whatever timeouts it is given."""
    ended: list[Exception | None] = []

    def run() -> None:
        try:
            call()
        except _failures() as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=run, name="wandb", daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    if thread.is_alive():
        _end_process()
        raise TimeoutError(f"its process did not answer for {ANSWER_TIMEOUT_S} s and was ended")
    error = ended[0] if ended else RuntimeError("an error of a kind that W&B was never seen to raise, printed above")
    if error is not None:
        raise error


def _end_process() -> None:
    """Kill the process that W&B started here, and take out its hook, which would wait for it when the interpreter ends."""
    import wandb

    service = wandb.setup().ensure_service()
    if service._proc is not None and service._cleanup is not None:
        service._cleanup()
        service._proc._process.kill()
        service._proc._process.wait()


def _failures() -> tuple[type[Exception], ...]:
    """With what W&B raises where its process is gone."""
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return (wandb.Error, HandleAbandonedError, MailboxClosedError, *FAILURES)


def wandb_run_id(run_dir: Path, run_id: str | None) -> str:
    """The run's id: the checkpoint's (`run_id`), else that in the run's folder, else a new one.

    It is stored in the folder, so that a run killed before its first checkpoint keeps it too.
    """
    path = run_dir / ID_FILE
    stored = path.read_text().strip() if path.exists() else ""
    run_id = run_id or stored or secrets.token_hex(4)
    if run_id != stored:
        write_file(path, run_id.encode())
    return run_id


def wandb_tracker(
    run_dir: Path,
    tracking: TrackingSection,
    config: Mapping[str, Any],
    run_id: str,
    rows: Sequence[Mapping[str, Any]],
) -> Tracker:
    """Start or resume the mirror; `rows` are those of the steps done before."""
    try:
        import wandb
    except ImportError as error:
        missing = error
        return Tracker("W&B", lambda: _refuse(missing))

    def start() -> WandbRun:
        is_online = tracking.wandb == "online"
        last_step = 0 if is_online else repair_files(run_dir, run_id)  # before W&B adds a file
        service = wandb.init(
            entity=tracking.entity or None,
            project=tracking.project,
            group=tracking.group or None,
            name=run_dir.name,
            id=run_id,
            mode="online" if is_online else "offline",
            dir=str(run_dir),
            config=dict(config),
            resume="allow",
            settings=wandb.Settings(
                finish_timeout=FINISH_TIMEOUT_S, finish_timeout_raises=True, x_transaction_log_flush_interval=FLUSH_S
            ),
        )
        service.define_metric("*", step_metric="step")
        if is_online:
            last_step = service.starting_step - 1
        run = WandbRun(service, last_step=last_step, sample_every=tracking.sample_every)
        for row in rows:
            run.log({name: value for name, value in row.items() if value is not None}, None)
        return run

    return Tracker("W&B", start, _failures())


def _refuse(error: ImportError) -> WandbRun:
    raise error
