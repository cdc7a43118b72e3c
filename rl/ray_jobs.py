"""Ray's Jobs API: a command submitted at most once under a name, watched to its end, and the exit code it ended with.

Ray runs a job once and never again. A job here is an attempt, `NAME-1`, `NAME-2`, ...: one that is running is watched
and one that succeeded stays done; only after one that failed or was stopped does the next attempt begin.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

STOPPED_EXIT_CODE = 75
"""Of a job that was told to stop: what it learned up to its last checkpoint is on disk."""
START_TIMEOUT_S = 60.0
"""For a cluster that has just started: its nodes take jobs a while after the dashboard answers."""
POLL_S = 0.5


class JobRefused(ValueError):
    """A submission that cannot be made as asked for."""

    exit_code = 2


class ClusterUnreachable(RuntimeError):
    """No Jobs API at the address, or one that takes no jobs from us."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What is asked of the cluster."""

    run: str
    """The run's name: of all jobs that write the same folder, one at a time."""
    stage: str
    """Up to which the job trains: `all`, or a number from 1."""
    command: str
    """Shell command that runs on a node of the cluster, in working_dir."""
    working_dir: str
    """Folder that is uploaded, less what its .gitignore and .rayignore name."""
    environment: Mapping[str, str]
    """Of the command and of every process it starts on the cluster; readable by whoever may read the dashboard."""

    @property
    def name(self) -> str:
        """Of all attempts at it: their ids are `NAME-1`, `NAME-2`, ..."""
        return f"{self.run}-stage-{self.stage}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A job that was submitted."""

    job_id: str
    name: str
    """Its submission's."""
    number: int
    """1 for the first."""
    command: str
    is_over: bool
    exit_code: int | None
    """0 where it succeeded; None while it runs, and where it ended without one, its node lost, say."""
    told: str
    """Ray's word for its state."""


class Jobs:
    """One cluster's jobs."""

    def __init__(self, address: str | None = None) -> None:
        """Connect to the Jobs API at `http://HOST:PORT`; None: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's.

        Raises:
            ClusterUnreachable: nothing there, or it does not take our token.
        """
        logging.getLogger("ray").setLevel(logging.ERROR)  # else each file of the upload's rules is told, on stderr
        try:
            self._client = JobSubmissionClient(address)
        except (OSError, RuntimeError) as error:
            raise ClusterUnreachable(
                f"cluster {address or '(default address)'}: {_one_line(error)}; start one with ray start --head, name its "
                "dashboard with --address http://HOST:8265, and give RAY_AUTH_TOKEN_PATH the cluster's token"
            ) from None

    def attempts(self, run: str) -> list[Attempt]:
        """Every attempt at any stage of the run that the cluster knows, the first ones first."""
        pattern = re.compile(rf"{re.escape(run)}-stage-(?:all|\d+)-\d+")
        found = [_attempt(job) for job in self._client.list_jobs() if pattern.fullmatch(job.submission_id or "")]
        return sorted(found, key=lambda attempt: attempt.number)

    def submit(self, submission: Submission, number: int) -> str:
        """Submit an attempt; its id.

        Raises:
            ClusterUnreachable: it takes no jobs.
        """
        job_id = f"{submission.name}-{number}"
        started = Retrying(
            retry=retry_if_exception_message(match=".*No available agent"),
            stop=stop_after_delay(START_TIMEOUT_S),
            wait=wait_fixed(2.0),
            reraise=True,
        )
        try:
            started(
                self._client.submit_job,
                entrypoint=submission.command,
                submission_id=job_id,
                runtime_env={"working_dir": submission.working_dir, "env_vars": dict(submission.environment)},
                # The driver holds the loop, and on CPU the learner too.
                entrypoint_num_cpus=1,
            )
        except RuntimeError as error:
            raise ClusterUnreachable(f"job {job_id}: not taken: {_one_line(error)}") from None
        return job_id

    def follow(self, job_id: str) -> Attempt:
        """Print the job's output until it ends. A SIGTERM meanwhile is passed on: the job is told to stop, and its end waited for.

        Raises:
            ClusterUnreachable: the connection broke; the job may go on.
        """
        signal.signal(signal.SIGTERM, lambda signum, frame: self._client.stop_job(job_id))
        try:
            asyncio.run(self._print_log(job_id))
            while not (attempt := _attempt(self._client.get_job_info(job_id))).is_over:
                time.sleep(POLL_S)
        except (ClientError, OSError, RuntimeError) as error:
            raise ClusterUnreachable(
                f"job {job_id}: lost sight of it ({_one_line(error)}); the same command finds it again, or begins the next attempt"
            ) from None
        return attempt

    async def _print_log(self, job_id: str) -> None:
        async for lines in self._client.tail_job_logs(job_id):
            print(lines, end="", flush=True)


def run_once(jobs: Jobs, submission: Submission, *, number: int | None = None) -> Attempt:
    """The attempt at `submission` that counts, at its end: the one that succeeded or is running, else a new one.

    Args:
        number: this attempt and no other: submitted where the cluster does not know it, else watched to its end.

    Raises:
        JobRefused: an attempt that counts ran another command under the same name, or another job of the run is not over.
        ClusterUnreachable: the cluster takes no jobs.
    """
    of_run = jobs.attempts(submission.run)
    known = [attempt for attempt in of_run if attempt.name == submission.name and number in (None, attempt.number)]
    last = known[-1] if known else None
    counts = last is not None and (number is not None or not last.is_over or last.exit_code == 0)
    if last is None or not counts:
        for live in of_run:
            if not live.is_over:
                raise JobRefused(
                    f"job {live.job_id}: {live.told}, of the same run; watch it with ray job logs --follow {live.job_id} and give "
                    f"this command again at its end, or stop it with ray job stop {live.job_id}; a run of its own has "
                    "another run.name and run.dir"
                )
        job_id = jobs.submit(submission, number or (last.number + 1 if last else 1))
        print(f"job {job_id}: submitted", flush=True)
        return jobs.follow(job_id)
    if last.command != submission.command:
        raise JobRefused(
            f"job {last.job_id}: {last.told} already, with another command ({last.command}); give the run another run.name, "
            + (f"or submit a new attempt with --attempt {last.number + 1}" if last.is_over else "or stop the job first")
        )
    print(f"job {last.job_id}: {last.told} already", flush=True)
    return last if last.is_over else jobs.follow(last.job_id)


def is_uploaded(file: Path, working_dir: Path) -> bool:
    """Whether a job with this working_dir has the file, which lies in it: no .gitignore or .rayignore leaves it out."""
    excludes: list[Callable[[Path], bool]] = []
    place = working_dir
    for part in ("", *file.relative_to(place).parts):
        place /= part
        excludes += get_excludes_from_ignore_files(place, include_gitignore=True, logger=logging.getLogger(__name__))
        if any(is_excluded(place) for is_excluded in excludes):
            return False
    return True


def _attempt(job: Any) -> Attempt:
    name, _, number = job.submission_id.rpartition("-")
    code = job.driver_exit_code
    if job.status == JobStatus.STOPPED:
        code = STOPPED_EXIT_CODE
    elif code is not None and code < 0:
        code = 128 - code  # as a shell tells the signal that ended it
    return Attempt(
        job_id=job.submission_id,
        name=name,
        number=int(number),
        command=job.entrypoint,
        is_over=job.status.is_terminal(),
        exit_code=code,
        told=job.status.value.lower(),
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[-300:]
