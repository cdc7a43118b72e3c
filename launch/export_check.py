"""Whether an export computes what its checkpoint does: the same token ids and, within a bound, the same logits.

K positions are compared, the last of each prompt; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.problem import SourceProblem
from data.prompts import L1_PROMPT, render_prompt_ids
from data.synthesis.corpus import builtin_corpus
from data.token_counts import tokenizer_fingerprint
from rl.evaluate import choose_problems

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from data.prepared import PreparedSet

MAX_PROMPT_TOKENS = 2048
"""Of a longer prompt the first so many are read: enough to tell two models apart, and seconds on a CPU."""
NUM_POSITIONS = 64
"""K, at most."""
ROUNDING = 16
"""Between two types logits may differ by this many units in the last place of the coarser, at the largest logit."""


class ExportFailed(RuntimeError):
    """What was written does not compute what the checkpoint does; nothing is left of it."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What the comparison came to; it passed."""

    num_prompts: int
    num_positions: int
    """Of all prompts together."""
    max_logit_diff: float
    """Largest |export - checkpoint| over all positions and the whole vocabulary."""
    max_logit: float
    """Largest |logit| of the checkpoint, to compare it with."""
    bound: float
    """What the difference had to stay within; 0: the same type, so the same bits."""
    num_same_argmax: int
    """Positions at which both find the same token likeliest."""


def check_prompts(tokenizer: PreTrainedTokenizerBase, prepared: PreparedSet | None, count: int) -> list[list[int]]:
    """[T] token ids of `count` of the set's prompts, at most MAX_PROMPT_TOKENS each; without a set one of built-in text."""
    if prepared is None:
        text = " ".join(builtin_corpus().sentences[:40])
        problem = SourceProblem(
            problem_id="built-in", task="", context=text, question="What is this about?", answers=("Python",),
            answer_type="text",
        )  # fmt: skip
        return [render_prompt_ids(tokenizer, problem, L1_PROMPT)[:MAX_PROMPT_TOKENS]]
    chosen = choose_problems(prepared.problems, count, seed=0)
    return [render_prompt_ids(tokenizer, problem, prepared.template)[:MAX_PROMPT_TOKENS] for problem in chosen]


def prompt_logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """[K, V] per prompt, in float32 and host memory: the logits of its last positions."""
    import torch

    with torch.inference_mode():
        return [
            model(
                input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False, logits_to_keep=NUM_POSITIONS
            )
            .logits[0]
            .float()
            .cpu()
            for ids in prompts
        ]


def compared(
    source: Sequence[torch.Tensor], export: Sequence[torch.Tensor], dtypes: tuple[torch.dtype, torch.dtype]
) -> CheckResult:
    """The two sides' logits of the same prompts, compared; `dtypes` are what the two models compute in.

    Raises:
        ExportFailed: they differ by more than the bound, or are not numbers.
    """
    import torch

    pairs = list(zip(source, export, strict=True))
    diff = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    largest = max(float(ours.abs().max()) for ours, _ in pairs)
    bound = 0.0 if dtypes[0] == dtypes[1] else ROUNDING * largest * max(torch.finfo(dtype).eps for dtype in dtypes)
    if not diff <= bound:  # so that a NaN fails too
        raise ExportFailed(
            f"export: its logits differ from the checkpoint's by {diff:.3g}, allowed {bound:.3g}; nothing was kept, "
            "report it with the model's config.json"
        )
    return CheckResult(
        num_prompts=len(pairs),
        num_positions=sum(len(ours) for ours, _ in pairs),
        max_logit_diff=diff,
        max_logit=largest,
        bound=bound,
        num_same_argmax=sum(int((ours.argmax(-1) == theirs.argmax(-1)).sum()) for ours, theirs in pairs),
    )


def check_tokenizer(source: PreTrainedTokenizerBase, folder: Path, prompts: Sequence[Sequence[int]]) -> None:
    """The tokenizer in `folder` is the checkpoint's: vocabulary, merges, template, and the prompts' own ids.

    Raises:
        ExportFailed: it is another.
    """
    from transformers import AutoTokenizer

    exported = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    texts = [source.decode(ids) for ids in prompts]
    for text in texts:
        ours, theirs = (each(text, add_special_tokens=False)["input_ids"] for each in (source, exported))
        if ours != theirs:
            raise ExportFailed(
                f"export: its tokenizer splits a prompt of the run into {len(theirs)} other ids; nothing was kept"
            )
    if tokenizer_fingerprint(source) != tokenizer_fingerprint(exported):
        raise ExportFailed("export: its tokenizer has another vocabulary or chat template; nothing was kept")
