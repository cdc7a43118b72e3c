"""The optimizer: in one process, with its state in host memory, and over two processes' shards."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM

import rl.learner.optimizer
from rl.learner.optimizer import Optimizer, OtherModel
from tests.rl.gloo_ranks import run_ranks
from tests.rl.learner_cases import VOCABULARY, tiny_config

NUM_RANKS = 2
LR = 1e-2
Tensors = dict[str, torch.Tensor]


class Scaled(torch.nn.Module):
    """A tiny Qwen2 with a parameter of a single row, of which all ranks but the first hold none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_config(tiny_config("qwen2"))
        self.scale = torch.nn.Parameter(torch.full((1,), 1.5))

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        logits = self.model(input_ids=token_ids).logits * self.scale
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), token_ids[:, 1:].flatten())


def optimizer(model: torch.nn.Module, *, offload: bool = False, weight_decay: float = 0.1) -> Optimizer:
    return Optimizer(model, betas=(0.9, 0.95), weight_decay=weight_decay, max_grad_norm=1.0, offload=offload)


def batch(seed: int) -> torch.Tensor:
    """[NUM_RANKS, 12] int64, a row for each rank."""
    return torch.randint(0, VOCABULARY, (NUM_RANKS, 12), generator=torch.Generator().manual_seed(seed))


def train(model: torch.nn.Module, subject: Optimizer, seeds: range, *, row: slice = slice(None)) -> list[float]:
    """An update a seed; returns the norms."""
    norms = []
    for seed in seeds:
        model(batch(seed)[row]).backward()
        norms.append(subject.update(LR))
    return norms


def saved(subject: Optimizer, folder: Path) -> Tensors:
    """All that the optimizer writes."""
    folder.mkdir(exist_ok=True)
    subject.save(folder)
    return read(folder)


def read(folder: Path) -> Tensors:
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def same_bits(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_update_clips_by_the_global_norm_and_follows_adamw() -> None:
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(1.0)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])
    subject = optimizer(model)
    assert subject.update(LR) == pytest.approx(5.0)
    # Clipped to 0.6 and 0.8; a first step of Adam is lr * sign; the weight decays by lr * 0.1, the bias does not.
    assert model.weight.item() == pytest.approx(2.0 * (1 - LR * 0.1) - LR, abs=1e-6)
    assert model.bias.item() == pytest.approx(1.0 - LR, abs=1e-6)
    state = subject._adamw.state[model.weight]
    assert state["exp_avg"].item() == pytest.approx(0.1 * 0.6, rel=1e-5)
    assert model.weight.grad is None


@pytest.mark.parametrize("offload", [False, True])
def test_a_norm_that_is_not_finite_changes_nothing_but_the_gradients(offload: bool, tmp_path: Path) -> None:
    model = Scaled()
    subject = optimizer(model, offload=offload)
    train(model, subject, range(2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = saved(subject, tmp_path / "before")
    model(batch(3)).backward()
    model.scale.grad = torch.tensor([math.inf])
    assert not math.isfinite(subject.update(LR))
    assert same_bits(before, dict(model.named_parameters()))
    assert same_bits(state, saved(subject, tmp_path / "after"))
    assert subject.gradients() == {}


def test_frozen_parameters_are_left_out_and_a_tied_one_counts_once() -> None:
    model = Scaled()
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight
    model.model.model.layers.requires_grad_(False)
    subject = optimizer(model)
    model(batch(0)).backward()
    assert sorted(subject.gradients()) == ["model.model.embed_tokens.weight", "model.model.norm.weight", "scale"]


def test_a_bfloat16_model_gathers_gradients_in_float32() -> None:
    model = torch.nn.Linear(1, 1, bias=False).bfloat16()
    subject = optimizer(model)
    inputs = [1.0] + 256 * [2.0**-8]
    for x in inputs:
        model(torch.tensor([[x]], dtype=torch.bfloat16)).backward()
    # In bfloat16 (8 bits) 1 + 2^-8 rounds back to 1, however often it is added.
    assert subject.gradients()["weight"].item() == 2.0
    assert model.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_in_host_memory_gives_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    models = [Scaled().to(dtype), Scaled().to(dtype)]
    subjects = [optimizer(model, offload=offload) for model, offload in zip(models, (False, True), strict=True)]
    norms = [train(model, subject, range(3)) for model, subject in zip(models, subjects, strict=True)]
    assert norms[0] == norms[1]
    assert same_bits(*(dict(model.named_parameters()) for model in models))
    one, other = (saved(subject, tmp_path / str(i)) for i, subject in enumerate(subjects))
    assert same_bits(one, other)
    assert all(tensor.dtype == torch.float32 for tensor in one.values())
    fresh = Scaled().to(dtype)
    resumed = optimizer(fresh, offload=True)
    resumed.load(tmp_path / "0")
    assert train(fresh, resumed, range(3, 5)) == train(models[0], subjects[0], range(3, 5))
    assert same_bits(dict(fresh.named_parameters()), dict(models[0].named_parameters()))


def test_masters_in_host_memory_are_no_memory_of_the_models() -> None:
    model = torch.nn.Linear(2, 2)
    subject = optimizer(model, offload=True)
    assert all(t.master.data_ptr() != t.rows.data_ptr() for t in subject._trained.values())


def test_a_state_larger_than_a_file_is_written_to_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scaled()
    subject = optimizer(model)
    train(model, subject, range(2))
    whole = saved(subject, tmp_path / "one")
    assert len(list((tmp_path / "one").iterdir())) == 2
    monkeypatch.setattr(rl.learner.optimizer, "MAX_FILE_BYTES", 10_000)
    assert same_bits(whole, saved(subject, tmp_path / "several"))
    sizes = {name: t.nbytes for name, t in whole.items() if t.nbytes <= 10_000}
    files = [load_file(file) for file in (tmp_path / "several").iterdir()]
    assert len(files) > 10
    assert all(len(held) == 1 or sum(sizes[name] for name in held) <= 10_000 for held in files)
    resumed = optimizer(Scaled())
    resumed.load(tmp_path / "several")
    assert same_bits(whole, saved(resumed, tmp_path / "again"))
    monkeypatch.undo()
    assert same_bits(whole, saved(subject, tmp_path / "several")), "files of the state before are still there"


def test_a_state_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    saved(optimizer(torch.nn.Linear(3, 2)), tmp_path)
    with pytest.raises(OtherModel, match=r"parameter 'weight' has shape \(2, 3\), the model needs \(2, 4\)"):
        optimizer(torch.nn.Linear(4, 2)).load(tmp_path)
    with pytest.raises(OtherModel, match=r"parameter 'bias' has shape \(2,\), the model needs None"):
        optimizer(torch.nn.Linear(3, 2, bias=False)).load(tmp_path)
    file = tmp_path / "moments-00001.safetensors"
    moments = load_file(file)
    save_file({name: t for name, t in moments.items() if name != "exp_avg/weight"}, file)
    with pytest.raises(OtherModel, match="no 'exp_avg/weight', nor 0 others"):
        optimizer(torch.nn.Linear(3, 2)).load(tmp_path)
    with pytest.raises(OtherModel, match="parameter 'bias' has shape None"):
        optimizer(torch.nn.Linear(3, 2)).load(tmp_path / "absent")


def sharded_model(dtype: torch.dtype = torch.float32) -> Scaled:
    """float32 shards over all ranks, gathered in `dtype`."""
    model, mesh = Scaled(), init_device_mesh("cpu", (NUM_RANKS,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in (*model.model.model.layers, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return model


def updates_of_every_kind(folder: Path) -> None:
    """What each of the processes does; assertions here fail the fixture, files are looked at by the tests."""
    rank = dist.get_rank()
    row = slice(rank, rank + 1)
    model = sharded_model()
    subject = optimizer(model)
    assert subject._trained["scale"].rows.shape == (1 - rank,)
    model(batch(0)[row]).backward()
    gradients = {name: tensor.contiguous() for name, tensor in subject.gradients().items()}
    save_file(gradients, folder / f"gradients-{rank}.safetensors")
    subject.clear()
    norms = train(model, subject, range(3), row=row)
    saved(subject, folder / "two")

    offloaded_model = sharded_model()
    offloaded = optimizer(offloaded_model, offload=True)
    assert train(offloaded_model, offloaded, range(3), row=row) == norms
    saved(offloaded, folder / "offloaded")

    model(batch(3)[row]).backward()
    if rank == 1:
        model.model.model.norm.weight.grad.to_local().fill_(math.nan)
    assert not math.isfinite(subject.update(LR))
    saved(subject, folder / "skipped")

    other_model = sharded_model()
    other = optimizer(other_model)
    other.load(folder / "one")
    saved(other, folder / "one_again")
    train(other_model, other, range(3, 4), row=row)
    saved(other, folder / "one_went_on")

    narrow = sharded_model(torch.bfloat16)
    narrow_subject = optimizer(narrow)
    train(narrow, narrow_subject, range(1), row=row)
    saved(narrow_subject, folder / "narrow")
    save_file({"norms": torch.tensor(norms)}, folder / f"norms-{rank}.safetensors")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two processes that have ended; `one` in it is one process's state after the same three updates."""
    folder = tmp_path_factory.mktemp("ranks")
    model = Scaled()
    subject = optimizer(model)
    norms = train(model, subject, range(3))
    saved(subject, folder / "one")
    save_file({"norms": torch.tensor(norms)}, folder / "norms-one.safetensors")
    run_ranks(updates_of_every_kind, NUM_RANKS, folder)
    return folder


def close(one: Tensors, other: Tensors, tolerance: float) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in one
    )


def test_shards_are_updated_as_one_process_updates_the_whole(ranks: Path) -> None:
    one, two = read(ranks / "one"), read(ranks / "two")
    # Gradients that are zero but for rounding (the key biases': softmax does not see them) move by rounding's sign.
    blind = {name for name in one if "k_proj.bias" in name}
    keep: Callable[[Tensors], Tensors] = lambda tensors: {n: t for n, t in tensors.items() if n not in blind}  # noqa: E731
    assert len(blind) == 2 * 4
    assert close(keep(one), keep(two), 1e-6)


def test_every_rank_has_the_norm_and_the_whole_gradients(ranks: Path) -> None:
    norms = [load_file(ranks / f"norms-{who}.safetensors")["norms"] for who in ("one", 0, 1)]
    assert min(norms[0]) > 1.0, "too small to be clipped"
    assert torch.allclose(norms[0], norms[1], rtol=1e-6)
    assert torch.equal(norms[1], norms[2])
    model = Scaled()
    subject = optimizer(model)
    model(batch(0)).backward()
    gathered = [load_file(ranks / f"gradients-{rank}.safetensors") for rank in range(NUM_RANKS)]
    assert same_bits(*gathered)
    assert close(subject.gradients(), gathered[0], 1e-6)


def test_shards_in_host_memory_give_the_same_bits(ranks: Path) -> None:
    assert same_bits(read(ranks / "two"), read(ranks / "offloaded"))


def test_one_ranks_gradient_that_is_not_finite_skips_the_update_on_all(ranks: Path) -> None:
    assert same_bits(read(ranks / "two"), read(ranks / "skipped"))


def test_a_state_goes_from_one_process_to_two_and_back_bit_for_bit(ranks: Path, tmp_path: Path) -> None:
    assert same_bits(read(ranks / "one"), read(ranks / "one_again"))
    subject = optimizer(Scaled())
    subject.load(ranks / "two")
    assert same_bits(read(ranks / "two"), saved(subject, tmp_path))


def test_two_processes_go_on_from_one_processs_state(ranks: Path, tmp_path: Path) -> None:
    model = Scaled()
    subject = optimizer(model)
    subject.load(ranks / "one")
    train(model, subject, range(3, 4))
    went_on, expected = read(ranks / "one_went_on"), saved(subject, tmp_path)
    name = "model.model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(expected[name], read(ranks / "one")[name])
    assert torch.allclose(went_on[name], expected[name], atol=1e-6)


def test_shards_stay_float32_where_the_model_computes_in_bfloat16(ranks: Path) -> None:
    narrow = read(ranks / "narrow")
    assert all(tensor.dtype == torch.float32 for tensor in narrow.values())
    weight = narrow["model.model.embed_tokens.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())
