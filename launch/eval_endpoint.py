"""A model behind an OpenAI-compatible endpoint: chat completions, with bounded retries and a concurrency limit.

Every request ends as a `Reply`; one that failed says why, and its item stays in the evaluation as `infra_error`.
Left out: counting tokens there; lengths are the endpoint's own, and unknown where it tells none.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from data.prompts import PromptTemplate, render_messages
from rl.evaluate import Ask, Reply, SamplingLimits

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY_VARIABLE = "LONGREACH_MODEL_KEY"
MAX_ATTEMPTS = 5
MAX_WAIT_S = 30.0


class NoResponse(RuntimeError):
    """The endpoint answered, and its answer holds no response."""


class Endpoint:
    """Asks a served model, `concurrency` requests at a time."""

    def __init__(self, *, url: str, model: str, concurrency: int, timeout_s: float, wait_s: float = 1.0) -> None:
        """Connects to nothing yet; the key comes from LONGREACH_MODEL_KEY.

        Args:
            url: base, for instance `http://127.0.0.1:8000/v1`.
            model: its name there.
            timeout_s: seconds for one attempt, its whole response included.
            wait_s: scale of the wait before a retry, which is random in [0, wait_s * 2^attempt] and at most 30 s.
        """
        self._url, self._model = url, model
        self._concurrency, self._timeout_s, self._wait_s = concurrency, timeout_s, wait_s

    def replies(self, asks: Sequence[Ask], template: PromptTemplate, limits: SamplingLimits) -> list[list[Reply]]:
        """One reply a sample, in order; never raises for a request that failed."""
        return asyncio.run(self._replies(asks, template, limits))

    async def _replies(
        self, asks: Sequence[Ask], template: PromptTemplate, limits: SamplingLimits
    ) -> list[list[Reply]]:
        import openai

        slots = asyncio.Semaphore(self._concurrency)
        key = os.environ.get(KEY_VARIABLE) or "EMPTY"
        async with openai.AsyncOpenAI(
            base_url=self._url, api_key=key, max_retries=0, timeout=self._timeout_s
        ) as client:
            return await asyncio.gather(*(self._samples(client, slots, ask, template, limits) for ask in asks))

    async def _samples(
        self, client: AsyncOpenAI, slots: asyncio.Semaphore, ask: Ask, template: PromptTemplate, limits: SamplingLimits
    ) -> list[Reply]:
        request = {
            "model": self._model,
            "messages": render_messages(ask.problem, template),
            "max_tokens": limits.max_response_tokens,
        }
        if ask.decoding == "greedy":
            request["temperature"] = 0.0
        else:
            request |= {"temperature": limits.temperature, "top_p": limits.top_p}
        return await asyncio.gather(*(self._reply(client, slots, {**request, "seed": seed}) for seed in ask.seeds))

    async def _reply(self, client: AsyncOpenAI, slots: asyncio.Semaphore, request: dict[str, Any]) -> Reply:
        import openai
        import tenacity

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=self._wait_s, max=MAX_WAIT_S),
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )
        async with slots:
            try:
                reply: Reply = await retrying(_response, client, request)
            except (NoResponse, ValueError, openai.OpenAIError, OSError) as error:
                told = _utf8(" ".join(f"{type(error).__name__} {error}".split())[:200])
                return Reply(text="", num_response_tokens=None, finish_reason=None, failure=f"{self._url}: {told}")
        return reply


async def _response(client: AsyncOpenAI, request: dict[str, Any]) -> Reply:
    try:
        return reply_of(await client.chat.completions.create(**request))
    except (TypeError, RecursionError) as error:  # JSON of another shape, or nested deeper than Python reads
        raise NoResponse(f"no completion: {type(error).__name__} {error}") from error


def reply_of(completion: Any) -> Reply:
    """What a completion says; a thought that the server sends apart stands before the answer, between its marks.

    Raises:
        NoResponse: it holds no text.
    """
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    text = getattr(message, "content", None)
    thought = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)
    if isinstance(thought, str):
        text = f"<think>{thought}</think>{text}" if isinstance(text, str) else f"<think>{thought}"
    if not isinstance(text, str):
        raise NoResponse(f"no content in {' '.join(str(completion).split())[:150]}")
    return Reply(
        text=_utf8(text),
        num_response_tokens=known_tokens(getattr(getattr(completion, "usage", None), "completion_tokens", None)),
        finish_reason="length" if getattr(choice, "finish_reason", None) == "length" else "stop",
    )


def known_tokens(told: Any) -> int | None:
    """A number of tokens as somebody else told it; None where it can be none: no whole number in [0, 2^31)."""
    return told if type(told) is int and 0 <= told < 2**31 else None


def _utf8(text: str) -> str:
    """Half a surrogate pair, which JSON can carry and UTF-8 cannot, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: no response, no JSON, connection, timeout, 408, 409, 429, 5xx."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, NoResponse, ValueError))
