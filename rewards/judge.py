"""The LLM judge as a scorer sees it: cases in, verdicts or their absence out.

Around the calls (judge_client) it keeps a cache on disk, asks again in a later pass what could not be settled, checks
a YES beside a decoy reference, and mixes in canaries whose alarm makes it abstain. One event loop in a thread of its
own, so that callers with and without a running loop can share it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rewards.breaker import Breaker, BreakerPolicy
from rewards.canary import Canary, CanaryMonitor, draw_canaries
from rewards.judge_cache import JudgeCache
from rewards.judge_case import JudgeCase, with_decoy
from rewards.judge_client import JudgeClient, JudgePolicy, JudgeReply

MAX_LATER_PASSES = 2
"""How often a batch's unsettled cases are asked again, after the others and after an open breaker's pause."""

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class Judge:
    """Decides cases in batches; what it cannot settle is unknown, with a status that says why."""

    def __init__(
        self,
        *,
        url: str,
        model: str,
        concurrency: int = 64,
        cache: str = "",
        second_opinion: bool = False,
        canaries_per_batch: int = 0,
        policy: JudgePolicy | None = None,
        breaker: BreakerPolicy | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            url, model, concurrency, policy: as `JudgeClient` takes them.
            cache: file of verdicts already given; empty: none is kept.
            second_opinion: a YES counts only if the same answer gets a NO beside a decoy reference.
            canaries_per_batch: known cases asked beside every batch that asks anything.
            breaker: when to stop asking for a while.

        Raises:
            ValueError: an argument that cannot be used.
        """
        if canaries_per_batch < 0:
            raise ValueError(f"judge canaries {canaries_per_batch}: must be 0 or more")
        self._breaker = Breaker(breaker)
        self._client = JudgeClient(url=url, model=model, concurrency=concurrency, breaker=self._breaker, policy=policy)
        self._cache = JudgeCache(cache) if cache else None
        self._key_words = (model, f"second_opinion={second_opinion}")
        self._second_opinion = second_opinion
        self._canaries_per_batch = canaries_per_batch
        self._canaries = CanaryMonitor()
        self._num_batches = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def decide(self, cases: Sequence[JudgeCase]) -> list[JudgeReply]:
        """One reply per case, in order; equal cases are asked once. Blocks until all are there."""
        keys = [case.key(*self._key_words) for case in cases]
        known = self._cache.get(list(dict.fromkeys(keys))) if self._cache else {}
        replies = {key: _from_cache(same) for key, same in known.items()}
        asked = {key: case for key, case in zip(keys, cases, strict=True) if key not in known}
        if asked:
            replies |= self._ask(asked)
        return [replies[key] for key in keys]

    def metrics(self) -> dict[str, float]:
        """Counts since the start (`num_`) and how the judge is doing now."""
        right = self._canaries.right_frac
        return {
            "judge/num_calls": float(self._client.num_calls),
            "judge/num_breaker_opened": float(self._breaker.num_opened),
            "judge/breaker_open": float(self._breaker.state != "closed"),
            "judge/canary_alarm": float(self._canaries.alarm),
            "judge/num_cache_errors": float(self._cache.num_errors if self._cache else 0),
            **({} if right is None else {"judge/canary_right_frac": right}),
        }

    def close(self) -> None:
        """Closes the connections and stops the thread; safe to call again."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _ask(self, cases: Mapping[str, JudgeCase]) -> dict[str, JudgeReply]:
        self._num_batches += 1
        canaries = draw_canaries(list(cases.values()), self._canaries_per_batch, seed=self._num_batches)
        was_open, was_alarmed = self._breaker.state != "closed", self._canaries.alarm
        replies = self._run(self._ask_all(cases, canaries))
        if self._breaker.state != "closed" and not was_open:
            _LOG.warning("judge: the breaker is open; what the rule did not accept is unknown until calls succeed")
        if self._canaries.alarm:
            if not was_alarmed:
                _LOG.warning("judge: wrong about too many known answers; it abstains until that ends")
            return {key: _abstained(reply) for key, reply in replies.items()}
        if self._cache:
            self._cache.put({key: reply.same for key, reply in replies.items() if reply.same is not None})
        return replies

    async def _ask_all(self, cases: Mapping[str, JudgeCase], canaries: Sequence[Canary]) -> dict[str, JudgeReply]:
        tests = asyncio.gather(*(self._client.ask(canary.case) for canary in canaries))
        replies = await self._settle_all(cases)
        for _ in range(MAX_LATER_PASSES):
            unsettled = {key: cases[key] for key, reply in replies.items() if reply.status != "ok"}
            if not unsettled:
                break
            again: dict[str, JudgeReply] = {}
            if self._breaker.state != "closed":
                await asyncio.sleep(self._breaker.admits_again_in_s())
                first = next(iter(unsettled))
                again = await self._settle_all({first: unsettled.pop(first)})
                if again[first].status != "ok":
                    break
            replies |= again | await self._settle_all(unsettled)
        for canary, reply in zip(canaries, await tests, strict=True):
            self._canaries.observe(canary, reply.same)
        return replies

    async def _settle_all(self, cases: Mapping[str, JudgeCase]) -> dict[str, JudgeReply]:
        replies = await asyncio.gather(*(self._settle(case) for case in cases.values()))
        return dict(zip(cases, replies, strict=True))

    async def _settle(self, case: JudgeCase) -> JudgeReply:
        reply = await self._client.ask(case)
        if not (reply.same and self._second_opinion):
            return reply
        beside_decoy = await self._client.ask(with_decoy(case))
        both = replace(
            beside_decoy,
            latency_s=reply.latency_s + beside_decoy.latency_s,
            attempts=reply.attempts + beside_decoy.attempts,
        )
        if beside_decoy.same is None:
            return replace(both, detail=f"YES, but without a second opinion: {beside_decoy.detail}")
        detail = "NO: it says YES beside a wrong reference too" if beside_decoy.same else "YES, and NO beside a decoy"
        return replace(both, same=not beside_decoy.same, detail=detail)

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _from_cache(same: bool) -> JudgeReply:
    return JudgeReply(same=same, status="ok", detail="YES, as before" if same else "NO, as before", cached=True)


def _abstained(reply: JudgeReply) -> JudgeReply:
    if reply.status != "ok":
        return reply
    return replace(reply, same=None, status="abstain", detail="the judge is wrong about too many known answers")
