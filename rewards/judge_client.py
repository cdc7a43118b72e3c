"""Calls to the judge: any OpenAI-compatible endpoint, with bounded retries, a concurrency limit and a circuit breaker.

Every call ends as a `JudgeReply`; no error leaves `ask`. A client belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rewards.breaker import Breaker
from rewards.judge_case import JudgeCase
from rewards.types import ScoreStatus
from rewards.verdict import SCHEMA, parse_verdict

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from tenacity import RetryCallState

KEY_VARIABLE = "LONGREACH_JUDGE_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePolicy:
    """Time limits and retries of one verdict."""

    connect_s: float = 5.0
    read_s: float = 30.0
    """Longest silence of the endpoint in one attempt."""
    total_s: float = 60.0
    """All attempts and waits together; waiting for a free slot is not counted."""
    max_attempts: int = 4
    wait_s: float = 0.5
    """Scale of the wait before a retry: uniform in [0, wait_s * 2^attempt] ("full jitter"), or the endpoint's
    Retry-After where that is longer."""
    max_wait_s: float = 8.0

    def __post_init__(self) -> None:
        if min(self.connect_s, self.read_s, self.total_s, self.max_attempts) <= 0:
            raise ValueError(f"{self}: time limits and attempts must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReply:
    """What came of one question to the judge."""

    same: bool | None
    """The verdict; None unless status is `ok`."""
    status: ScoreStatus
    detail: str
    """For people: the verdict, or the last error."""
    latency_s: float = 0.0
    attempts: int = 0
    cached: bool = False
    """Read from the cache; nothing was asked."""


class NoVerdict(RuntimeError):
    """The endpoint answered, and its answer holds no verdict."""


class BreakerOpen(RuntimeError):
    """No call is made: the last ones failed."""


class JudgeClient:
    """Asks the judge, `concurrency` calls at a time."""

    def __init__(
        self, *, url: str, model: str, concurrency: int, breaker: Breaker, policy: JudgePolicy | None = None
    ) -> None:
        """Connects to nothing yet.

        Args:
            url: the endpoint's base, for instance `http://judge:8000/v1`; the key comes from `LONGREACH_JUDGE_KEY`.
            model: its name there.
            concurrency: calls in flight, at least 1.
            breaker: told of every attempt, and asked before it.
            policy: limits; the default ones where None.

        Raises:
            ValueError: a url that is not http(s) or carries a password, an empty model name, a concurrency below 1.
        """
        if not _is_http_url(url):
            raise ValueError(f"judge url {url!r}: not an http(s) address; for instance http://127.0.0.1:8000/v1")
        refuse_credentials(url, "LONGREACH_JUDGE_KEY")
        if not model:
            raise ValueError(f"judge url {url!r}: no model is named; say which one the endpoint should use")
        if concurrency < 1:
            raise ValueError(f"judge concurrency {concurrency}: must be at least 1")
        self._url, self._model = url, model
        self._concurrency = concurrency
        self._policy = policy or JudgePolicy()
        self._breaker = breaker
        self._slots = asyncio.Semaphore(concurrency)
        self._structured = True
        self._client: AsyncOpenAI | None = None
        self._last_error = "silence"
        self.num_calls = 0
        """Requests sent."""

    async def ask(self, case: JudgeCase) -> JudgeReply:
        """The verdict on one case, or why there is none."""
        import openai

        async with self._slots:
            start, calls = time.monotonic(), _Attempts()
            status: ScoreStatus
            same: bool | None = None
            try:
                async with asyncio.timeout(self._policy.total_s):
                    same = await self._with_retries(case, calls)
                status, detail = "ok", "YES" if same else "NO"
            except BreakerOpen as error:
                status, detail = "abstain", str(error)
            except (TimeoutError, openai.APITimeoutError) as error:
                status, detail = "timeout", f"no verdict in time after {calls.made} attempts: {_one_line(error)}"
            except (NoVerdict, ValueError, TypeError, RecursionError) as error:  # also JSON too odd or too deep to read
                status, detail = "parse_error", f"{_one_line(error)} ({calls.made} attempts)"
            except (openai.OpenAIError, OSError) as error:
                status, detail = "infra_error", f"{self._url} failed after {calls.made} attempts: {_one_line(error)}"
            latency_s = time.monotonic() - start
            return JudgeReply(same=same, status=status, detail=detail, latency_s=latency_s, attempts=calls.made)

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()

    async def _with_retries(self, case: JudgeCase, calls: _Attempts) -> bool:
        """Bounded attempts with full jitter; only what may pass by itself is tried again."""
        import tenacity

        policy = self._policy
        jitter = tenacity.wait_random_exponential(multiplier=policy.wait_s, max=policy.max_wait_s)

        def wait(state: RetryCallState) -> float:
            return max(jitter(state), _retry_after_s(state.outcome.exception() if state.outcome else None))

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(policy.max_attempts) | tenacity.stop_before_delay(policy.total_s),
            wait=wait,
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )
        same: bool = await retrying(self._attempt, case, calls)
        return same

    async def _attempt(self, case: JudgeCase, calls: _Attempts) -> bool:
        ticket = self._breaker.admit()
        if ticket is None:
            wait_s = self._breaker.admits_again_in_s()
            raise BreakerOpen(f"not asked for {wait_s:.0f} s: {self._url} keeps failing, last with {self._last_error}")
        calls.made += 1
        ok = False
        try:
            same = await self._call(case, structured=self._structured and not calls.was_unreadable)
            ok = True
        except Exception as error:
            calls.was_unreadable = isinstance(error, NoVerdict)  # then the next attempt asks for the other form
            self._last_error = _one_line(error)
            raise
        finally:
            self._breaker.record(ticket, ok=ok)
        return same

    async def _call(self, case: JudgeCase, *, structured: bool) -> bool:
        """One request; raises NoVerdict where the reply holds none."""
        import openai

        try:
            reply = await self._send(case, structured=structured)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if not structured:
                raise
            reply = await self._send(case, structured=False)
            self._structured = False
        choices = getattr(reply, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise NoVerdict(f"a reply without choices: {_one_line(reply)}")
        content = getattr(getattr(choices[0], "message", None), "content", None)
        same = parse_verdict(content)
        if same is None:
            raise NoVerdict(f"no verdict in {_one_line(content)!r}")
        return same

    async def _send(self, case: JudgeCase, *, structured: bool) -> Any:
        request: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": case.prompt(structured=structured)}],
            "temperature": 0.0,
            "max_tokens": 64 if structured else 512,
        }
        if structured:
            schema = {"name": "verdict", "schema": SCHEMA, "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        self.num_calls += 1
        return await self._open().chat.completions.create(**request)

    def _open(self) -> AsyncOpenAI:
        if self._client is None:
            import openai

            policy = self._policy
            self._client = openai.AsyncOpenAI(
                base_url=self._url,
                api_key=os.environ.get(KEY_VARIABLE) or "EMPTY",
                max_retries=0,
                timeout=openai.Timeout(policy.total_s, connect=policy.connect_s, read=policy.read_s),
            )
        return self._client


@dataclass(kw_only=True, slots=True)
class _Attempts:
    """Counts the attempts of one verdict."""

    made: int = 0
    was_unreadable: bool = False


def refuse_credentials(url: str, variable: str) -> str:
    """The URL, which goes into files and to trackers, and so may carry no user or password; `variable` is for the key.

    Raises:
        ValueError: it carries some; the message does not repeat them.
    """
    if re.search(r"//[^/?#]*@", url):
        raise ValueError(f"seen a URL with credentials, which files would keep; give the key in {variable}")
    return url


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later: no verdict, no JSON, connection, timeout, 408, 409, 429, 5xx."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, NoVerdict, ValueError, TypeError, RecursionError))


def _retry_after_s(error: BaseException | None) -> float:
    """Seconds that the endpoint asks to wait; 0 where it asks for none that can be read."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _one_line(value: object) -> str:
    text = f"{type(value).__name__} {value}" if isinstance(value, BaseException) else str(value)
    return " ".join(text.split())[:200].encode("utf-8", "replace").decode("utf-8")
