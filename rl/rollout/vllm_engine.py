"""vLLM behind the `Engine` protocol: the only file that imports vllm.

Weights travel by vLLM's own four calls (init, start, update, finish) through a backend registered here that reads
a safetensors file, on shared memory where there is room. It is correct on CPU and on CUDA.
An adapter (LoRA) is given to vLLM as one and stays beside the start model's weights: merged in bfloat16, most of a
small update would be rounded away. vLLM's CPU build multiplies adapters too, in plain torch.
Left out: the `ipc` and `nccl` backends, which save CUDA a copy through host memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

with warnings.catch_warnings():
    # vLLM imports deprecated names of torch; nobody who reads our output can act on that.
    warnings.simplefilter("ignore")
    from vllm import LLM, SamplingParams
    from vllm.config.lora import MaxLoRARanks
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.lora.request import LoRARequest
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
    from vllm.platforms import current_platform

from rl.config import RolloutSection
from rl.rollout.engine import SampleRequest, check_request, response_text, stop_token_ids
from rl.rollout.weight_files import (
    Adapter,
    adapter_at,
    adapter_folder,
    iter_weights,
    model_folder,
    require_adapter,
    require_names,
    weight_names,
)
from rl.types import Completion

BACKEND = "longreach_file"
CPU_BLOCK_TOKENS = 32
"""Tokens per cache block: each sample prefills its prompt's last, partial block again, so small; kernels want 32n."""
CPU_BATCH_TOKENS = 4096
"""Tokens per forward pass: 1,024 to 8,192 measured within 15 % of each other."""


@dataclass
class FileInit(WeightTransferInitInfo):
    """Nothing to set up."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    path: str
    """A safetensors file, or a folder of them, that this worker can read."""


class FileTransfer(WeightTransferEngine[FileInit, FileUpdate]):
    """Reads a whole checkpoint from a file, in Hugging Face names, on every vLLM worker."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The inherited one ends in an accelerator barrier, which the CPU build does not have.
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FileUpdate) -> None:
        # vLLM loads what it is given and leaves the rest as it was, so a parameter left out would go unnoticed.
        tied = {"lm_head.weight"} if self.model_config.hf_text_config.tie_word_embeddings else set()
        require_names(update_info.path, weight_names(model_folder(self.model_config.model)) - tied)
        self.model.load_weights(iter_weights(update_info.path))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        refresh_tied_head(self.model)

    def shutdown(self) -> None:
        pass


def refresh_tied_head(model: torch.nn.Module) -> None:
    """Pack the tied output head again after its embedding changed (CPU build).

    There a linear layer multiplies with a packed copy of its weight. A reload packs again only what received weights
    under its own name; a tied lm_head shares the embedding's storage and receives none, so its copy stays stale and
    log-probabilities are silently off by about a nat.
    """
    head = getattr(model, "lm_head", None)
    embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
    if head is None or embedding is None or not hasattr(head, "cpu_linear"):
        return
    if not model.config.tie_word_embeddings:
        return
    if head.weight.data_ptr() != embedding.weight.data_ptr():
        head.weight.data.copy_(embedding.weight.data)
    dispatch_cpu_unquantized_gemm(head, remove_weight=False)


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, FileTransfer)


class RegisterFileTransfer:
    """Named to vLLM as worker extension, so that workers in other processes import this file and register the backend."""


class VllmEngine:
    """One vLLM instance. lora_rank: of the adapters that may come; 0: none, whole models only.

    Its process wants `engine_environment` set before it starts.
    A call's tokens depend on its requests and the weights only: seeds come with the request, and no prefix that an
    earlier call cached is read, since a prompt computed in other pieces differs in its last bits. They do depend on all
    of the call's requests, in their order: another batch rounds differently, and a near tie then falls the other way.

    Raises:
        ValueError: vLLM cannot hold the model and one sequence of max_model_len in the memory it is given, or has no
            adapters of such a rank or type.
    """

    def __init__(
        self,
        model_path: str,
        *,
        dtype: str,
        section: RolloutSection,
        max_model_len: int,
        threads: int,
        seed: int,
        lora_rank: int = 0,
    ) -> None:
        self.max_model_len = max_model_len
        cpu = current_platform.is_cpu()
        if cpu:
            torch.set_num_threads(threads)
        arguments = {
            "model": model_path,
            "dtype": dtype,
            "seed": seed,
            "max_model_len": max_model_len,
            "max_num_seqs": section.max_num_seqs,
            "tensor_parallel_size": section.tensor_parallel,
            "enable_prefix_caching": True,
            # Log-probabilities of the distribution that was sampled from: after temperature, top-k and top-p.
            "logprobs_mode": "processed_logprobs",
            # The model's own sampling defaults (a top-k of 20, say) would make every ratio wrong.
            "generation_config": "vllm",
            "weight_transfer_config": WeightTransferConfig(backend=BACKEND),
            "worker_extension_cls": f"{RegisterFileTransfer.__module__}.{RegisterFileTransfer.__name__}",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        arguments |= (
            _cpu_arguments(section, max_model_len) if cpu else {"gpu_memory_utilization": section.gpu_memory_frac}
        )
        if lora_rank:
            arguments |= _lora_arguments(lora_rank, dtype, cpu=cpu)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._llm = LLM(**arguments)
        except ValueError as error:
            memory = f"kv_cache_gib={section.kv_cache_gib}" if cpu else f"gpu_memory_frac={section.gpu_memory_frac}"
            raise ValueError(
                f"vLLM refuses {model_path!r} with max_model_len={max_model_len} and rollout.{memory}: {error}"
            ) from error
        self._tokenizer = self._llm.get_tokenizer()
        self._stop_token_ids = sorted(stop_token_ids(model_path, self._tokenizer))
        self._llm.init_weight_transfer_engine({"init_info": {}})
        self._model_path = model_path
        self._lora_rank = lora_rank
        self._holds_start_model = True
        self._adapter: LoRARequest | None = None
        self._num_adapters = 0

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See `Engine.generate`. One vLLM request per sample; the samples of a prompt share its prefilled cache."""
        prompts, params = [], []
        for request in requests:
            check_request(request, self.max_model_len)
            prompt = {"prompt_token_ids": list(request.prompt_token_ids)}
            prompts += [prompt] * len(request.seeds)
            params += [self._sampling_params(request, seed) for seed in request.seeds]
        self._forget_prefixes()
        outputs = iter(self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter))
        return [[self._completion(next(outputs).outputs[0]) for _ in request.seeds] for request in requests]

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> list[float]:
        """See `Engine.score`. Prompt log-probabilities bypass the prefix cache and are slow: one short sequence only."""
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        prompt = {"prompt_token_ids": list(token_ids)}
        [output] = self._llm.generate([prompt], params, use_tqdm=False, lora_request=self._adapter)
        per_position = output.prompt_logprobs
        return [per_position[i][token_ids[i]].logprob for i in range(num_prompt_tokens, len(token_ids))]

    def update_weights(self, path: str, version: int) -> None:
        """See `Engine.update_weights`.

        Raises:
            RuntimeError: names are missing at path, an adapter does not fit, or cached prefixes could not be dropped.
        """
        adapter = adapter_at(path)
        if adapter is None:
            self._drop_adapter()
            self._holds_start_model = False
            self._load_model(path, version)
        else:
            self._load_adapter(path, adapter, version)
        self._forget_prefixes()

    def _load_model(self, path: str, version: int) -> None:
        self._llm.start_weight_update()
        self._llm.update_weights({"update_info": {"path": path}})
        self._llm.finish_weight_update(str(version))

    def _load_adapter(self, path: str, adapter: Adapter, version: int) -> None:
        if adapter.rank > self._lora_rank:
            raise RuntimeError(
                f"weights {path}: an adapter of rank {adapter.rank}, this engine was built with lora_rank={self._lora_rank}; "
                "give the engine the learner's lora_rank"
            )
        start = model_folder(self._model_path)
        require_adapter(path, adapter, weight_names(start))
        self._drop_adapter()
        if not self._holds_start_model:
            self._load_model(start, version)
            self._holds_start_model = True
        # A number of its own for each: versions may come twice, and vLLM takes the same number for the same adapter.
        self._num_adapters += 1
        with adapter_folder(path, adapter) as folder:
            request = LoRARequest(f"adapter-{self._num_adapters}", self._num_adapters, folder)
            self._llm.llm_engine.add_lora(request)
        self._adapter = request

    def _drop_adapter(self) -> None:
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()

    def _forget_prefixes(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept cached prefixes although no request is running; they may be of older weights")

    def _sampling_params(self, request: SampleRequest, seed: int) -> SamplingParams:
        greedy = request.temperature == 0
        return SamplingParams(
            max_tokens=request.max_response_tokens,
            temperature=request.temperature,
            top_p=1.0 if greedy else request.top_p,
            top_k=-1 if greedy else request.top_k,
            seed=None if greedy else seed,
            logprobs=0,
            stop_token_ids=self._stop_token_ids,
            detokenize=False,
        )

    def _completion(self, output: Any) -> Completion:
        token_ids = tuple(output.token_ids)
        return Completion(
            token_ids=token_ids,
            logprobs=tuple(at[token].logprob for at, token in zip(output.logprobs, token_ids, strict=True)),
            text=response_text(self._tokenizer, token_ids),
            finish_reason="stop" if output.finish_reason == "stop" else "length",
        )


def _cpu_arguments(section: RolloutSection, max_model_len: int) -> dict[str, Any]:
    return {
        "enforce_eager": True,
        "kv_cache_memory_bytes": int(section.kv_cache_gib * 2**30),
        "block_size": CPU_BLOCK_TOKENS,
        # vLLM rewinds a seeded request's generator when its prompt was prefilled in part, which CPU generators
        # cannot do ("CPU Generator does not use offset"): whole prompts only.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCH_TOKENS, max_model_len),
    }


def _lora_arguments(rank: int, dtype: str, *, cpu: bool) -> dict[str, Any]:
    """vLLM reserves room for one adapter, of the next rank that it has kernels for."""
    ranks = sorted(get_args(MaxLoRARanks))
    if rank > ranks[-1]:
        raise ValueError(
            f"learner.lora_rank: {rank} > {ranks[-1]}, the largest rank that vLLM samples with; lower it, or set "
            "rollout.engine to 'transformers'"
        )
    if dtype == "float32" and not cpu:
        raise ValueError(
            "model.dtype: vLLM's LoRA kernels on CUDA do not take 'float32'; set 'bfloat16', learner.lora_rank=0, or "
            "rollout.engine to 'transformers'"
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in ranks if r >= rank)}
