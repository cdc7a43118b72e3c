"""A random Qwen2 with a tied head, and a learner's side of it in plain transformers: for tests of engines and syncs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rl.rollout.engine import SampleRequest

VOCABULARY = 512
EOS = 1


def write_tiny_model(folder: Path, *, tied: bool = True) -> str:
    """Two layers, 64 wide, 512 words `w3`, `w4`, ...; weights large enough that tokens are far from equally likely."""
    torch.manual_seed(0)
    words = {"<pad>": 0, "<eos>": EOS, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    words_only = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words_only, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        eos_token_id=EOS,
        bos_token_id=None,
        pad_token_id=0,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


class PlainLearner:
    """The learner's side of a weight sync, computed as simply as can be."""

    def __init__(self, model_path: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()

    def change(self, seed: int = 1) -> None:
        """Move every weight, as an optimizer step would."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))

    def write_weights(self, path: str) -> None:
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        state = self.model.state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items() if name not in tied}, path)

    @torch.no_grad()
    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        ids = [*prompt_ids, *response_ids]
        table = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return [float(table[i - 1, ids[i]]) for i in range(len(prompt_ids), len(ids))]


def requests(num: int, *, samples: int = 4, temperature: float = 1.0, seed: int = 0) -> list[SampleRequest]:
    """Prompts of 40 to 100 random words, 12 tokens to sample."""
    rng = random.Random(seed)
    return [
        SampleRequest(
            prompt_token_ids=tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(40, 100))),
            seeds=tuple(rng.randrange(2**63) for _ in range(samples)),
            max_response_tokens=12,
            temperature=temperature,
        )
        for _ in range(num)
    ]


def largest_difference(learner: PlainLearner, request: SampleRequest, completions: Sequence) -> float:
    """Over a request's completions, |the engine's log-probability - the learner's|, in nats."""
    return max(
        abs(ours - theirs)
        for completion in completions
        for ours, theirs in zip(
            learner.logprobs(request.prompt_token_ids, completion.token_ids), completion.logprobs, strict=True
        )
    )
