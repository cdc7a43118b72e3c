"""The LLM judge: any OpenAI-compatible endpoint, asked whether two answers to a question mean the same.

One client and one event loop per `JudgeClient`, in a thread of its own, so that callers with and
without a running loop can share it. Every reply ends as a `JudgeReply`; no error leaves `ask`.

Left out here: the circuit breaker, the cache on disk and the canaries.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data.problem import Question
from rewards.judge_prompt import judge_prompt
from rewards.types import ScoreStatus
from rewards.verdict import SCHEMA, parse_verdict

if TYPE_CHECKING:
    from openai import AsyncOpenAI

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
    """Scale of the wait before a retry: uniform in [0, wait_s * 2^attempt] ("full jitter")."""
    max_wait_s: float = 8.0


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReply:
    """What came of one question to the judge."""

    same: bool | None
    """The verdict; None unless status is `ok`."""
    status: ScoreStatus
    detail: str
    """For people: the verdict, or the last error."""
    latency_s: float
    attempts: int


class JudgeClient:
    """Asks the judge about batches of answers, `concurrency` at a time."""

    def __init__(self, *, url: str, model: str, concurrency: int = 64, policy: JudgePolicy | None = None) -> None:
        """Connects to nothing yet.

        Args:
            url: the endpoint's base, for instance `http://judge:8000/v1`; the key comes from `LONGREACH_JUDGE_KEY`.
            model: its name there.
            concurrency: calls in flight, at least 1.

        Raises:
            ValueError: a url that is not http(s), an empty model name, a concurrency below 1.
        """
        if not _is_http_url(url):
            raise ValueError(f"judge url {url!r}: not an http(s) address; for instance http://127.0.0.1:8000/v1")
        if not model:
            raise ValueError(f"judge url {url!r}: no model is named; say which one the endpoint should use")
        if concurrency < 1:
            raise ValueError(f"judge concurrency {concurrency}: must be at least 1")
        self._url, self._model = url, model
        self._policy = policy or JudgePolicy()
        self._concurrency = concurrency
        self._structured = True
        self._client: AsyncOpenAI | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def ask(self, cases: Sequence[tuple[Question, str]]) -> list[JudgeReply]:
        """One reply per (question, answer), in order; blocks until all are there."""
        if not cases:
            return []
        return asyncio.run_coroutine_threadsafe(self._ask_all(cases), self._loop).result()

    def close(self) -> None:
        """Closes the connections and stops the thread."""
        if self._loop.is_closed():
            return
        if self._client is not None:
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ask_all(self, cases: Sequence[tuple[Question, str]]) -> list[JudgeReply]:
        return await asyncio.gather(*(self._ask_one(question, answer) for question, answer in cases))

    async def _ask_one(self, question: Question, answer: str) -> JudgeReply:
        import openai
        import tenacity

        async with self._slots:
            start = time.monotonic()
            attempts = 0
            status: ScoreStatus = "infra_error"
            detail = ""
            same: bool | None = None
            try:
                async with asyncio.timeout(self._policy.total_s):
                    async for attempt in self._retrying():
                        with attempt:
                            attempts += 1
                            same, detail = await self._call(question, answer)
                status = "parse_error" if same is None else "ok"
            except (TimeoutError, openai.APITimeoutError) as error:
                status, detail = "timeout", f"no verdict in time after {attempts} attempts: {_one_line(error)}"
            except ValueError as error:
                status, detail = "parse_error", f"the endpoint's reply is not JSON: {_one_line(error)}"
            except (openai.OpenAIError, OSError, tenacity.RetryError) as error:
                detail = f"{self._url} failed after {attempts} attempts: {_one_line(error)}"
            return JudgeReply(
                same=same if status == "ok" else None,
                status=status,
                detail=detail,
                latency_s=time.monotonic() - start,
                attempts=max(1, attempts),
            )

    def _retrying(self) -> Any:
        """Bounded attempts with full jitter; only what may pass by itself is tried again."""
        import tenacity

        return tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._policy.max_attempts),
            wait=tenacity.wait_random_exponential(multiplier=self._policy.wait_s, max=self._policy.max_wait_s),
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )

    async def _call(self, question: Question, answer: str) -> tuple[bool | None, str]:
        """One request: the verdict (None where the reply holds none) and what was said."""
        import openai

        client = self._open()
        structured = self._structured
        try:
            reply = await client.chat.completions.create(**self._request(question, answer, structured=structured))
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if not structured:
                raise
            reply = await client.chat.completions.create(**self._request(question, answer, structured=False))
            self._structured = False
        choices = getattr(reply, "choices", None)
        if not choices:
            return None, f"a reply without choices: {_one_line(reply)}"
        content = getattr(getattr(choices[0], "message", None), "content", None)
        same = parse_verdict(content)
        if same is None:
            return None, f"no verdict in {_one_line(content)}"
        return same, "YES" if same else "NO"

    def _request(self, question: Question, answer: str, *, structured: bool) -> dict[str, Any]:
        prompt = judge_prompt(question.question, question.answers, answer, structured=structured)
        request: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0,
            "max_tokens": 64 if structured else 512,
        }
        if structured:
            schema = {"name": "verdict", "schema": SCHEMA, "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        return request

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


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later: connection, timeout, 408, 409, 429, 5xx."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _one_line(value: object) -> str:
    text = " ".join(str(value).split()) if not isinstance(value, BaseException) else f"{type(value).__name__} {value}"
    return " ".join(text.split())[:200]
