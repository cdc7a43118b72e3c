"""A tokenizer made on the fly, so that no test needs a download."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, plus the chat's markers: every count can be derived by hand."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@cache
def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or a run of punctuation, all of them `[UNK]` but the chat's markers."""
    markers = ["<|user|>", "<|assistant|>", "<|end|>"]
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, **{m: i for i, m in enumerate(markers, 1)}}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": markers[:2]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
