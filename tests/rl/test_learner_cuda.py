"""The learner on a GPU, in bfloat16: as close to float32 as separate bfloat16 sequences are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.config import LearnerSection
from rl.learner.kernel_choice import HeadShape, choose_kernel
from rl.learner.step import Learner
from tests.rl.learner_cases import FAMILIES, write_tiny_model
from tests.rl.test_learner_gradient import ADVANTAGES, GROUPS, TEMPERATURE, separate_gradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch finds none"),
]


@pytest.mark.parametrize(("num_heads", "num_key_value_heads", "head_dim"), [(12, 2, 128), (28, 4, 128), (14, 2, 64)])
def test_the_flash_kernel_passes_its_check_at_the_shapes_of_real_models(
    num_heads: int, num_key_value_heads: int, head_dim: int
) -> None:
    shape = HeadShape(num_heads=num_heads, num_key_value_heads=num_key_value_heads, head_dim=head_dim)
    kernel, line = choose_kernel("auto", device=torch.device("cuda"), dtype=torch.bfloat16, shape=shape)
    assert kernel.name == "flash (CUDA)", line


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_exact_as_separate_sequences(
    tmp_path: Path, family: str, offload: bool, gradient_checkpointing: bool
) -> None:
    path = write_tiny_model(tmp_path, family)
    section = LearnerSection(
        gradient_checkpointing=gradient_checkpointing, offload_activations=offload, offload_optimizer=offload
    )
    subject = Learner(path, section=section, dtype="bfloat16", device="cuda", temperature=TEMPERATURE)
    subject.gather_gradient(GROUPS, ADVANTAGES)
    exact, usual = (
        separate_gradient(AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa"))
        for dtype in (torch.float32, torch.bfloat16)
    )

    def error(of: dict[str, torch.Tensor]) -> float:
        difference = torch.cat([(of[name].cpu().float() - g).flatten() for name, g in exact.items()])
        return float(difference.norm() / torch.cat([g.flatten() for g in exact.values()]).norm())

    assert error(subject.gradients()) <= error(usual)
