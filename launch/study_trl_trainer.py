"""TRL's GRPOTrainer under a run's configuration: what is TRL's own, and the little that is not.

TRL's own, as it comes: sampling of groups, advantages, loss, gradient accumulation, AdamW, clipping, logging. From the
configuration come problems, stages, rates, sizes and the reward. Ours are a clock on its parts, the learning rate's
schedule, the response limit of each stage; where vLLM samples, the engine behind `VLLMGeneration`; and on request a head
that is as cheap on CPU as TRL's is elsewhere (trl.response_head).
Left out, because TRL has none of it: replay, dynamic sampling with its refills, task-wise deviations, AEPO's gate.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL names the versions of vLLM that it was tried with, whether we use vLLM or not
    from datasets import Dataset
    from torch.optim.lr_scheduler import LambdaLR
    from trl import GRPOConfig, GRPOTrainer
    from trl.generation.vllm_generation import VLLMGeneration

from curricula.stage import Stage
from data.columns import columns_of
from data.problem import DataError
from data.prompts import render_messages
from launch.study_trl_config import StudyTrlConfig
from rewards.types import Score, Scorer
from rl.advantage import overlong_reward
from rl.inputs import InputError, Inputs
from rl.learner.export import write_weights
from rl.rollout.engine import Engine, response_text, stop_token_ids
from rl.rollout.weights import sync_weights


class StudyTrainer(GRPOTrainer):
    """GRPOTrainer over the problems of every stage in turn, in one call of `train`, so that AdamW's state stays.

    engine: what `VLLMGeneration` samples with; None: transformers' generate.
    """

    def __init__(
        self, config: StudyTrlConfig, inputs: Inputs, scorer: Scorer, folder: Path, *, engine: Engine | None
    ) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Since the caller last cleared it: rollout (generate, sync and score together), generate, sync, score."""
        self.scores: list[Score] = []
        """Of the step's rollouts."""
        self.stages = inputs.stages
        self._config, self._inputs, self._scorer = config, inputs, scorer
        super().__init__(
            model=config.model.path,
            reward_funcs=self.reward,
            args=grpo_config(config, inputs, folder, uses_engine=engine is not None),
            train_dataset=training_rows(config, inputs),
            processing_class=inputs.tokenizer,
        )
        if engine is not None:
            self.use_vllm = True
            self.vllm_generation = EngineGeneration(self, engine)
            self._last_loaded_step = -1
        self._check_prompts()

    def reward(self, completion_ids: Sequence[Sequence[int]], problem: Sequence[int], **_: Any) -> list[float | None]:
        """The run's own reward of each response; None, which TRL leaves out of its group, where there is no score."""
        texts = [response_text(self._inputs.tokenizer, ids) for ids in completion_ids]
        asked = [self._inputs.train[i] for i in problem]
        self.scores = self._scorer.score(list(zip(asked, texts, strict=True)))
        limit, buffer = self.max_completion_length, self._config.learner.overlong_buffer_tokens
        return [
            None if score.value is None else overlong_reward(score.value, len(ids), limit, buffer)
            for score, ids in zip(self.scores, completion_ids, strict=True)
        ]

    def stage_of(self, step: int) -> Stage:
        """Stage of a step, counted from 1; beyond the last step, the last stage."""
        for stage in self.stages:
            if step <= stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def learning_rate(self, step: int) -> float:
        """As `rl.run.Run.learning_rate`: the stage's, risen linearly over the run's first steps."""
        warmup = self._config.learner.warmup_steps
        return self.stage_of(step).lr * (min(1.0, step / warmup) if warmup else 1.0)

    def limit_responses(self, max_response_tokens: int) -> None:
        """Output limit of the steps to come, whichever way they sample."""
        self.max_completion_length = max_response_tokens
        if self.use_vllm:
            self.vllm_generation.max_completion_length = max_response_tokens
        else:
            self.generation_config.max_new_tokens = max_response_tokens
            self.generation_kwargs["max_new_tokens"] = max_response_tokens

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The stages' rates instead of one of transformers' schedules."""
        base = self.args.learning_rate
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda done: self.learning_rate(done + 1) / base)
        return self.lr_scheduler

    def write_weights(self, path: str) -> None:
        """See `rl.rollout.weights.WeightSource`."""
        dtype = getattr(torch, self._config.model.dtype)
        write_weights(self.model, path, dtype=dtype, adapter_config=None, writes=True)

    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        """See `rl.rollout.weights.WeightSource`."""
        ids = torch.tensor([[*prompt_ids, *response_ids]], device=self.model.device)
        with torch.no_grad():
            logprobs = self.model(input_ids=ids).logits[0].float().log_softmax(-1)
        return [logprobs[len(prompt_ids) + i - 1, token].item() for i, token in enumerate(response_ids)]

    def sync_engine(self, engine: Engine) -> None:
        """Give the engine this model's weights, and let both score one sequence.

        Raises:
            RuntimeError: they disagree by more than rollout.max_probe_diff.
        """
        bound = self._config.rollout.max_probe_diff
        sync_weights(self, OneEngine(engine), version=self.state.global_step, max_diff=bound)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the block's seconds to `seconds[part]`."""
        started = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - started

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with self.timed("rollout"):
            return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        with self.timed("generate"):
            return super()._generate_single_turn(*arguments, **options)

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> Any:
        with self.timed("score"):
            return super()._calculate_rewards(*arguments, **options)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **options: Any
    ) -> Any:
        """(log-probabilities [B, R], entropies [B, R] or None, None) of the last R = logits_to_keep tokens of [B, P + R] ids."""
        if not self._config.trl.response_head:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **options
            )
        logprobs, entropies = [], []
        size = options.get("batch_size") or len(input_ids)
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            rows = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": logits_to_keep + 1}
            logits = model(**rows, use_cache=False).logits[:, :-1].float() / self.temperature
            every = logits.log_softmax(-1)
            logprobs.append(every.gather(-1, ids[:, -logits_to_keep:, None])[..., 0])
            with torch.no_grad():
                entropies.append(-(every.exp() * every).sum(-1))
        return torch.cat(logprobs), torch.cat(entropies) if options.get("compute_entropy") else None, None

    def _check_prompts(self) -> None:
        """Compare TRL's prompt of each stage's first problem with ours."""
        steps, num = [stage.steps for stage in self.stages], self._config.curriculum.problems_per_step
        for stage in self.stages:
            row = self.train_dataset[sum(steps[: stage.index]) * num]
            problem = self._inputs.train[row["problem"]]
            if list(self._tokenize_prompts([row["prompt"]])[0][0]) != self._inputs.prompt_ids(problem):
                raise InputError(
                    f"model.path {self._config.model.path}: TRL's token ids of problem {problem.problem_id!r} are not "
                    "this run's; the chat template must render the same text whether or not it tokenizes"
                )


class OneEngine:
    """An engine of this process where workers are expected (`rl.rollout.engine.Workers`)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.policy_version = 0

    def generate(self, requests: Any) -> Any:
        return self._engine.generate(requests)

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        return {"the engine": self._engine.score(token_ids, num_prompt_tokens)}

    def update_weights(self, path: str, version: int, *, rewrite: Any = None) -> None:
        self._engine.update_weights(path, version)
        self.policy_version = version


class EngineGeneration(VLLMGeneration):
    """TRL's colocated vLLM, with the engine and the weight update of our own runs.

    TRL 1.16 starts vLLM's CPU build too, but its first update ends in an AttributeError: it writes into parameters that
    this build has packed and freed. Nor can it be told a type, and vLLM would sample a float32 model in bfloat16.
    """

    def __init__(self, trainer: StudyTrainer, engine: Engine) -> None:
        self._trainer, self._engine = trainer, engine
        super().__init__(
            model=trainer.model,
            accelerator=trainer.accelerator,
            processing_class=trainer.processing_class,
            temperature=trainer.temperature,
            top_p=trainer.top_p,
            top_k=trainer.top_k,
            max_completion_length=trainer.max_completion_length,
            generation_kwargs=trainer.args.generation_kwargs,
        )

    def _init_vllm(self) -> None:
        self.llm = self._engine._llm  # type: ignore[attr-defined]  # only VllmEngine comes here
        self._llm_weights_sleeping = False

    def sync_weights(self) -> None:
        """Called by TRL before it samples from a new step's weights."""
        with self._trainer.timed("sync"):
            self._trainer.sync_engine(self._engine)


def grpo_config(config: StudyTrlConfig, inputs: Inputs, folder: Path, *, uses_engine: bool) -> GRPOConfig:
    """TRL's arguments for the run: strictly on-policy, one optimizer step a generation, loss `dapo`, no KL."""
    learner, rollout = config.learner, config.rollout
    num_rollouts = config.curriculum.problems_per_step * config.curriculum.group_size
    batch_size = max(n for n in range(1, config.trl.micro_batch_sequences + 1) if num_rollouts % n == 0)
    stops = sorted(stop_token_ids(config.model.path, inputs.tokenizer))
    generation = {"stop_token_ids": stops, "detokenize": False} if uses_engine else {"use_cache": True}
    return GRPOConfig(
        output_dir=str(folder),
        seed=config.run.seed,
        max_steps=sum(stage.steps for stage in inputs.stages),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=num_rollouts // batch_size,
        num_generations=config.curriculum.group_size,
        max_completion_length=inputs.stages[0].max_response_tokens,
        shuffle_dataset=False,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=max(rollout.top_k, 0),
        generation_kwargs=generation,
        use_vllm=False,  # the engine comes in afterwards
        # Between a sampler and a learner in float32 the weights are 1; TRL would take a forward pass more to find that.
        vllm_importance_sampling_correction=config.model.dtype != "float32",
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=learner.tis_max,
        loss_type="dapo",
        beta=0.0,
        scale_rewards=learner.advantage_std,
        epsilon=learner.clip_low,
        epsilon_high=learner.clip_high,
        learning_rate=learner.lr,
        adam_beta1=learner.betas[0],
        adam_beta2=learner.betas[1],
        weight_decay=learner.weight_decay,
        max_grad_norm=learner.max_grad_norm,
        gradient_checkpointing=learner.gradient_checkpointing,
        model_init_kwargs={"dtype": config.model.dtype},
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def training_rows(config: StudyTrlConfig, inputs: Inputs) -> Dataset:
    """`prompt` (the conversation) and `problem` (its index in inputs.train), problems_per_step rows a step."""
    lengths = columns_of(inputs.train).num_prompt_tokens.tolist()
    order = problem_order(lengths, inputs.stages, config.curriculum.problems_per_step, seed=config.run.seed)
    row_of = {problem: row for row, problem in enumerate(dict.fromkeys(order))}
    rows = [{"prompt": render_messages(inputs.train[i], inputs.template), "problem": i} for i in row_of]
    return Dataset.from_list(rows).select([row_of[i] for i in order])


def problem_order(lengths: Sequence[int], stages: Sequence[Stage], problems_per_step: int, *, seed: int) -> list[int]:
    """Indices of the problems of every step, in turn: each stage goes through its window in shuffled epochs.

    An epoch's last rows that do not fill a step are left out, as TRL's own sampler does.

    Args:
        lengths: prompt tokens of each problem.

    Raises:
        DataError: a window with fewer problems than a step takes.
    """
    order: list[int] = []
    for stage in stages:
        window = [i for i, length in enumerate(lengths) if stage.low < length <= stage.high]
        whole = len(window) // problems_per_step * problems_per_step
        if not whole:
            raise DataError(
                f"data.train: stage {stage.index} has {len(window)} problems in ({stage.low}, {stage.high}] < "
                f"curriculum.problems_per_step={problems_per_step}, and TRL fills a step with distinct ones; lower it or add data"
            )
        rng = random.Random(f"{seed} {stage.index}")
        drawn: list[int] = []
        while len(drawn) < stage.steps * problems_per_step:
            rng.shuffle(window)
            drawn += window[:whole]
        order += drawn[: stage.steps * problems_per_step]
    return order
