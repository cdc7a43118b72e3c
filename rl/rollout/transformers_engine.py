"""transformers behind the `Engine` protocol: where vLLM is not installed, and where tests want every bit.

A request is computed by itself: its prompt goes forward once, its samples decode together, without padding.
So its tokens depend on nothing else in the call. Left out: batching over prompts, which makes it slower than vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from rl.learner.lora import add_adapters, base_name, load_adapter
from rl.rollout.engine import SampleRequest, check_request, response_text, stop_token_ids
from rl.rollout.weight_files import Adapter, adapter_at, iter_weights, require_adapter, require_names, weight_names
from rl.types import Completion


class TransformersEngine:
    """One model in this process. threads: torch's compute threads, for the whole process; 0 leaves them alone."""

    def __init__(
        self, model_path: str, *, dtype: str, max_model_len: int, threads: int = 0, device: str = "auto"
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.max_model_len = max_model_len
        self._device = device
        self._model_path, self._dtype = model_path, dtype
        self._load_start_model()
        self._tokenizer = AutoTokenizer.from_pretrained(model_path)
        self._stop = stop_token_ids(model_path, self._tokenizer)

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See `Engine.generate`."""
        for request in requests:
            check_request(request, self.max_model_len)
        return [self._generate_group(request) for request in requests]

    @torch.inference_mode()
    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> list[float]:
        """See `Engine.score`."""
        ids = torch.tensor([token_ids], device=self._device)
        num_scored = len(token_ids) - num_prompt_tokens
        logits = self._model(ids, logits_to_keep=num_scored + 1).logits[0, :-1].float()
        chosen = logits.log_softmax(-1).gather(-1, ids[0, num_prompt_tokens:, None])
        return [float(x) for x in chosen.squeeze(-1)]

    def update_weights(self, path: str, version: int) -> None:
        """See `Engine.update_weights`; nothing is cached between calls. A tied output head may be left out.

        Raises:
            RuntimeError: a name at path is unknown to the model, or one of the model's is not at path; nothing changed.
        """
        adapter = adapter_at(path)
        if adapter is None:
            self._take_model(path)
        else:
            self._take_adapter(path, adapter)

    def _load_start_model(self) -> None:
        model = AutoModelForCausalLM.from_pretrained(self._model_path, dtype=getattr(torch, self._dtype))
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._holds_start_model = True
        self._adapter: Adapter | None = None

    def _take_model(self, path: str) -> None:
        own = self._base()
        names = weight_names(path)
        if unknown := sorted(names - own.keys()):
            raise RuntimeError(f"weights {path}: the model has no parameter {unknown[0]!r}; write Hugging Face names")
        given = {own[name].data_ptr() for name in names}
        require_names(path, (name for name, tensor in own.items() if tensor.data_ptr() not in given))
        if self._adapter is not None:
            self._load_start_model()
            own = self._base()
        self._holds_start_model = False
        with torch.no_grad():
            for name, tensor in iter_weights(path):
                own[name].copy_(tensor)

    def _take_adapter(self, path: str, adapter: Adapter) -> None:
        """Beside the start model's weights, and multiplied as the learner does it."""
        require_adapter(path, adapter, self._base())
        if not self._holds_start_model or self._adapter not in (None, adapter):
            self._load_start_model()
        if self._adapter is None:
            add_adapters(self._model, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets, seed=0)
            self._adapter = adapter
        load_adapter(self._model, iter_weights(path))

    def _base(self) -> dict[str, torch.Tensor]:
        """The model's tensors without adapters, by their Hugging Face names."""
        named = ((base_name(name), tensor) for name, tensor in self._model.state_dict().items())
        return {name: tensor for name, tensor in named if name is not None}

    def close(self) -> None:
        del self._model

    @torch.inference_mode()
    def _generate_group(self, request: SampleRequest) -> list[Completion]:
        num_samples = len(request.seeds)
        prompt = torch.tensor([request.prompt_token_ids], device=self._device)
        cache = DynamicCache(config=self._model.config)
        logits = self._model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        cache.batch_repeat_interleave(num_samples)
        logits = logits.expand(num_samples, -1)
        token_ids: list[list[int]] = [[] for _ in range(num_samples)]
        logprobs: list[list[float]] = [[] for _ in range(num_samples)]
        running = set(range(num_samples))
        for step in range(request.max_response_tokens):
            processed = processed_logprobs(logits, request.temperature, request.top_p, request.top_k)
            tokens = _draw(processed, request, step)
            for i in sorted(running):
                token_ids[i].append(tokens[i])
                logprobs[i].append(float(processed[i, tokens[i]]))
                if tokens[i] in self._stop:
                    running.discard(i)
            if not running or step + 1 == request.max_response_tokens:
                break
            # Samples that have ended stay in the batch, so that a row's arithmetic never depends on the others' ends.
            ids = torch.tensor(tokens, device=self._device)[:, None]
            logits = self._model(ids, past_key_values=cache, use_cache=True).logits[:, -1]
        return [
            Completion(
                token_ids=tuple(ids),
                logprobs=tuple(values),
                text=response_text(self._tokenizer, ids),
                finish_reason="stop" if ids[-1] in self._stop else "length",
            )
            for ids, values in zip(token_ids, logprobs, strict=True)
        ]


def processed_logprobs(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    """Log-probabilities [B, V], float32, of the distribution that is sampled from.

    Temperature first, then the top_k highest logits (-1 or 0: all), then the smallest set of those whose mass reaches
    top_p, then renormalised; as vLLM orders them. temperature 0 is greedy: neither filter applies and the
    log-probabilities are those at temperature 1.
    """
    logits = logits.float()
    if temperature == 0:
        return logits.log_softmax(-1)
    logits = logits / temperature
    if top_k > 0:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1)
        outside = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
        outside[:, -1] = False
        logits = logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -math.inf)
    return logits.log_softmax(-1)


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) that is a function of (seed, counter) alone: SplitMix64 (Steele et al., OOPSLA 2014) at both.

    A counter instead of a generator's state: a sample's draws can be made again from any point, in any order.
    """
    return (_mix64(_mix64(seed) + (counter + 1) * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


def _mix64(x: int) -> int:
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def _draw(processed: torch.Tensor, request: SampleRequest, step: int) -> list[int]:
    """One token per row of processed [G, V], by inversion of the cumulative distribution in float64."""
    if request.temperature == 0:
        return [int(i) for i in processed.argmax(-1)]
    cumulative = processed.double().exp().cumsum(-1)
    points = [uniform(seed, step) for seed in request.seeds]
    at = torch.tensor(points, dtype=torch.float64, device=processed.device)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, at, right=True).squeeze(-1)
    return [min(int(i), processed.shape[-1] - 1) for i in tokens]
