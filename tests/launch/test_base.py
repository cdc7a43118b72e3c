import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from data.synthesis.corpus import builtin_corpus
from data.synthesis.generate import SynthesisExample, make_problems
from data.synthesis.words import CITIES, SPLITS, keys_of
from launch.association import AssociationRecipe, facts_batch, initialise, train_association
from launch.base import BaseConfig, make_base

SMALL = {"hidden_size": 64, "layers": 2, "heads": 2, "steps": 2, "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(BaseConfig(out=str(tmp_path_factory.mktemp("base") / "model"), **SMALL))[0]


def test_a_second_call_with_the_same_recipe_returns_at_once(base: Path) -> None:
    before = (base / "model.safetensors").stat().st_mtime_ns
    started = time.process_time()
    assert make_base(BaseConfig(out=str(base), **SMALL)) == (base, True)
    assert time.process_time() - started < 1.0
    assert (base / "model.safetensors").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(base: Path, tmp_path: Path) -> None:
    again, _ = make_base(BaseConfig(out=str(tmp_path / "again"), **SMALL))
    other, _ = make_base(BaseConfig(out=str(tmp_path / "other"), seed=1, **SMALL))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (base, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_every_key_in_use_and_every_city_is_one_token(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    words = [*CITIES, *(key for split in SPLITS for key in keys_of(split, 160))]
    assert {len(ids) for ids in tokenizer([f" {word}" for word in words])["input_ids"]} == {1}


def test_the_generation_prompt_ends_with_an_opened_think_tag(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    turns = [{"role": "user", "content": "Which city?"}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nWhich city?<|im_end|>\n<|im_start|>assistant\n<think>"
    ids = tokenizer(prompt)["input_ids"]
    assert [tokenizer.decode(i) for i in (ids[0], ids[-1])] == ["<|im_start|>", "<think>"]


def test_text_survives_the_tokenizer(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    text = "Since Kelora trusts Mabino</think>Therefore, the answer is Oslo\nsnow ☃ 12 = 7"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_saved_model_knows_its_end_and_ties_its_head(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.vocab_size == len(tokenizer)


def test_a_value_is_asked_only_after_it_was_told_with_its_key() -> None:
    recipe = AssociationRecipe(batch_tokens=2048)
    ids, positions, labels = facts_batch(100, 5, 400, recipe, torch.Generator().manual_seed(0))
    assert (positions.diff(dim=1) >= 1).all() and positions.max() < 400
    facts, asked = ids.view(len(ids), -1, 3), labels.view(len(ids), -1, 3)
    for row, wanted in zip(facts.tolist(), asked.tolist(), strict=True):
        told = {key: value for key, _, value in row[:5]}
        assert len(told) == 5
        assert all(label == [-100, -100, -100] for label in wanted[:5])
        assert all(label[2] == told[fact[0]] for fact, label in zip(row[5:], wanted[5:], strict=True))


def test_the_first_layer_starts_by_looking_one_and_two_tokens_back() -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config)
    initialise(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = model(torch.randint(100, (1, 40)), output_attentions=True).attentions[0][0]
    tokens = torch.arange(3, 40)
    assert (weights[0, tokens, tokens - 1] > 0.5).all()
    assert (weights[1, tokens, tokens - 2] > 0.5).all()


def test_association_is_learned_for_tokens_of_a_small_vocabulary() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = Qwen2Config(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    initialise(model, torch.Generator().manual_seed(0))
    recipe = AssociationRecipe(steps=150, num_facts=8, max_distinct=2, batch_tokens=768, max_position=100)
    assert train_association(model, recipe, seed=0) > 0.8  # naming either of the two values would be 0.5


def test_a_problem_of_the_test_split_holds_no_key_of_the_others() -> None:
    def text(example: SynthesisExample) -> str:
        return f"{example.problem.context} {example.problem.question}"

    made = make_problems(
        "chain", split="test", seed=0, count=50, min_tokens=0, max_tokens=100, corpus=builtin_corpus(), num_keys=160
    )
    others = {*keys_of("train"), *keys_of("dev")}
    assert not any(others & set(text(e).replace(".", "").split()) for e in made)
