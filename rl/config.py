"""The run's configuration: one TOML file, every value overridable, unknown keys refused.

A field's meaning stands once, in its docstring; `python -m launch.rl --help` prints exactly these.
Nothing here imports torch, vllm or ray.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rewards.judge_client import refuse_credentials


class Section(BaseModel):
    """A group of settings; unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunSection(Section):
    name: str = "run"
    """Name in the report, of an exported model and of a job on Ray; trackers show the folder's, the last part of run.dir."""
    dir: str = "runs/run"
    """Directory that holds everything the run writes."""
    seed: int = Field(default=0, ge=0)
    """Every rollout's seed derives from (seed, step, problem, sample); also the curriculum's."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Steps between checkpoints; the end of a stage always writes one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many step checkpoints stay; the last one of each stage stays as well."""
    max_failed_rounds: int = Field(default=3, ge=1)
    """Steps in a row whose share of invalid scores may exceed reward.max_invalid_frac before the run ends with exit 4."""


class ModelSection(Section):
    path: str = ""
    """Folder or hub id of the model in Hugging Face form; the policy that is trained."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Parameters' type; float32 on CPU, where bf16 backward is ten times slower."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner runs; auto takes CUDA when there is one."""


class DataSection(Section):
    train: str = ""
    """Prepared set (python -m data.prepare) that is trained on."""
    test: str = ""
    """Prepared set that is evaluated on; empty: no evaluation."""
    overlong: Literal["drop", "error", "cut_middle"] = "drop"
    """What happens to a problem longer than the longest stage's window; always counted."""


class StageSection(Section):
    max_prompt_tokens: int = Field(gt=0)
    """The window's upper bound, inclusive; its lower bound is the stage before's upper bound."""
    min_prompt_tokens: int | None = Field(default=None, ge=0)
    """The window's lower bound, exclusive; None: the stage before's max_prompt_tokens (0 for the first)."""
    steps: int = Field(gt=0)
    """Optimizer steps in this stage."""
    max_response_tokens: int = Field(default=1024, gt=0)
    """Output limit."""
    replay_frac: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of each draw that comes from hard problems of earlier stages; None: curriculum.replay_frac."""
    short_frac: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each draw that comes from the earlier stages' windows, all their problems alike, to keep short-context skill."""
    lr: float | None = Field(default=None, gt=0.0)
    """Learning rate of this stage; None: learner.lr."""


class CurriculumSection(Section):
    problems_per_step: int = Field(default=128, gt=0)
    """Groups that one optimizer step learns from."""
    group_size: int = Field(default=8, ge=2)
    """Answers sampled per problem (G)."""
    dynamic_sampling: bool = True
    """Keep only groups whose outcomes differ, and refill."""
    max_refill_rounds: int = Field(default=2, ge=0)
    """Extra draws a step may make to fill its batch; afterwards it learns from what it has."""
    max_surplus_age: int = Field(default=1, ge=0)
    """Steps for which a surplus group stays fresh enough to be learned from; 0 drops surplus."""
    difficulty_smoothing: float = Field(default=0.5, gt=0.0, le=1.0)
    """Weight of the newest group in a problem's running mean reward."""
    difficulty_floor: float = Field(default=0.05, gt=0.0)
    """Added to the mean reward before inverting, so that a problem at mean 0 has a finite difficulty."""
    park_after_visits: int = Field(default=3, ge=1)
    """A problem at zero for this many visits in a row is parked: out of the pool, not lost."""
    unpark_after_steps: int = Field(default=50, ge=1)
    """Steps after which a parked problem may be drawn again."""
    leave_pool_above: float = Field(default=0.9, gt=0.0, le=1.0)
    """A problem whose mean reward rises above this leaves the replay pool."""
    replay_frac: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each draw that comes from hard problems of earlier stages, where stages.N.replay_frac says nothing."""
    replay_power: float = Field(default=1.0, ge=0.0)
    """Replayed problems are drawn in proportion to difficulty ** replay_power; 0 draws all of the pool alike."""
    task_balanced: bool = False
    """Draw equally from every task: in the window, in the shorter windows (stages.N.short_frac) and in the replay pool."""
    order: Literal["random", "easy_first", "length_sorted", "variance_first"] = "random"
    """How the window's problems come up. By epochs: random; easy_first, by descending mean reward, those never visited last
    and by length; length_sorted, shortest first. variance_first: by weight, those whose scores vary most."""
    variance_prior: float = Field(default=0.25, ge=0.0, le=0.25)
    """With order = "variance_first": variance that a problem never visited is taken to have; 0.25 is the largest."""
    variance_floor: float = Field(default=0.01, gt=0.0)
    """With order = "variance_first": added to every variance, so that a problem whose scores did not vary comes back."""
    advance_on_plateau: int = Field(default=0, ge=0)
    """Steps without a better smoothed reward in the window after which the next stage begins early; 0: never."""
    plateau_delta: float = Field(default=0.01, ge=0.0)
    """How much better the smoothed reward must be to count as better."""
    plateau_smoothing: float = Field(default=0.2, gt=0.0, le=1.0)
    """Weight of the newest step in that smoothed reward."""
    plateau_min_steps: int = Field(default=0, ge=0)
    """Steps that every stage makes before a plateau may end it."""


class RolloutSection(Section):
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """What samples; auto takes vLLM where it is installed."""
    workers: int = Field(default=1, ge=1)
    """Ray actors, one engine each."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Sampling temperature in training."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus mass; below 1 the sampler's log-probabilities are renormalised and the learner uses its own."""
    top_k: int = Field(default=-1, ge=-1)
    """Highest-ranked tokens that may be drawn; -1: all."""
    gpu_memory_frac: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of GPU memory that vLLM may take."""
    kv_cache_gib: float = Field(default=0.25, gt=0.0)
    """CPU memory for vLLM's key/value cache, in GiB (CPU build only)."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs per engine."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences that decode together."""
    threads: int = Field(default=0, ge=0)
    """Compute threads per CPU engine; 0: all cores divided by workers."""
    max_probe_diff: float = Field(default=1e-3, gt=0.0)
    """After every weight sync one known sequence is scored on both sides; a larger difference (nats) stops the run.
    1e-3 suits float32; bfloat16 needs about 0.2."""


class LearnerSection(Section):
    lr: float = Field(default=2e-6, gt=0.0)
    """Learning rate, constant after warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """AdamW's decoupled decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decay rates."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are clipped to this global norm."""
    clip_low: float = Field(default=0.2, gt=0.0)
    """Lower clip of the probability ratio: 1 - clip_low (DAPO's e_low)."""
    clip_high: float = Field(default=0.28, gt=0.0)
    """Upper clip: 1 + clip_high (DAPO's e_high)."""
    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer updates (PPO mini-batches) a step; 1 is strictly on-policy and needs no old-log-probability pass."""
    tis_max: float = Field(default=2.0, gt=0.0)
    """Cap of the truncated importance weight learner/sampler; it carries no gradient."""
    kl_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the k3 KL estimate against the frozen start model, which is loaded only if this is > 0."""
    advantage_std: Literal["none", "group", "task", "batch"] = "group"
    """What the centred reward is divided by: the standard deviation of its group, its task in the batch, or the batch."""
    advantage_std_form: Literal["sample", "population"] = "sample"
    """Standard deviation over n - 1 (sample) or n (population); at 8 answers the latter is 7 % smaller."""
    advantage_baseline: Literal["mean", "leave_one_out"] = "mean"
    """What is taken off a reward: its group's mean, or the mean of the group's other rewards (RLOO)."""
    aepo_entropy_high: float | None = Field(default=None, gt=0.0)
    """Nats a token: above this entropy of the batch's answers, negative advantages are left out (AEPO); None: never."""
    aepo_entropy_low: float | None = Field(default=None, ge=0.0)
    """Below this entropy they count again; None: aepo_entropy_high, no band."""
    overlong_buffer_tokens: int = Field(default=0, ge=0)
    """DAPO's L_cache: the reward falls linearly over the last this many tokens before max_response_tokens; 0: off."""
    entropy_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the entropy that is added to the objective; at 0 entropy is a metric without gradient."""
    micro_batch_tokens: int | None = Field(default=None, gt=0)
    """Response tokens in one forward and backward (a longer response goes alone); None: as many as leave the peak of
    memory where the prompt alone puts it, and fit what is free."""
    head_chunk_tokens: int | None = Field(default=None, gt=0)
    """Response positions whose logits exist at one time; None: 64 MiB of them."""
    attention: Literal["auto", "flash", "reference"] = "auto"
    """Attention's kernels; auto takes flash where a check at start finds it exact, else the plain masked reference."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass."""
    threads: int = Field(default=0, ge=0)
    """Compute threads of a CPU learner; 0: all cores divided by processes. 1 makes runs reproducible bit for bit."""
    processes: int = Field(default=1, ge=1)
    """Learner processes, one a GPU (several on one CPU machine), placed by Ray. Parameters, gradients and optimizer state
    are sharded over all of them (FSDP2)."""
    sequence_parallel: int = Field(default=1, ge=1)
    """Processes that share each prompt and its responses between them; divides processes."""
    colocate: bool = True
    """Learner processes use the rollout workers' GPUs; false: GPUs of their own."""
    grad_accumulation: Literal["full", "sharded"] = "full"
    """Of several processes: full keeps whole gradients until an update's last backward and reduces once; sharded reduces
    in every backward, which takes more communication and less memory."""
    offload_activations: bool = False
    """Keep the layers' inputs that the backward pass needs in host memory."""
    offload_optimizer: bool = False
    """Keep float32 parameters and AdamW's moments in host memory, and update there."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of LoRA adapters, which are trained in place of the model's own weights; 0: all weights are trained."""
    lora_alpha: float = Field(default=32.0, gt=0.0)
    """An adapter's output is scaled by lora_alpha / lora_rank."""
    lora_targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    """Names of the linear layers that get an adapter."""

    @model_validator(mode="after")
    def _check_entropy_band(self) -> Self:
        if self.aepo_entropy_low is not None and self.aepo_entropy_low > (self.aepo_entropy_high or 0.0):
            raise ValueError(
                f"aepo_entropy_low: {self.aepo_entropy_low} is above aepo_entropy_high={self.aepo_entropy_high}; "
                "the band's lower end must not be above its upper"
            )
        return self

    @model_validator(mode="after")
    def _check_processes(self) -> Self:
        if self.processes % self.sequence_parallel:
            raise ValueError(
                f"sequence_parallel: {self.sequence_parallel} does not divide processes={self.processes}; "
                "take a divisor, 1 turns it off"
            )
        return self


class RewardSection(Section):
    workers: int = Field(default=1, ge=1)
    """CPU workers that score."""
    scorer: str = ""
    """`module:function` that makes a scorer of your own from the settings below (docs/rewards.md); empty: rules and judge."""
    contain: bool = False
    """Also accept a short text answer that holds a gold as whole words and says nothing that could turn it round."""
    max_invalid_frac: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of rollouts without a valid score that a step may have; see run.max_failed_rounds."""
    judge_url: str = ""
    """Base URL of an OpenAI-compatible endpoint; empty: the rule decides alone. The key comes from LONGREACH_JUDGE_KEY."""
    judge_model: str = ""
    """Model name at that endpoint."""
    judge_path: str = ""
    """Folder or hub id of a judge that the run itself serves, with vLLM on the driver's machine; instead of judge_url."""
    judge_gpus: str = ""
    """GPUs of that judge as in CUDA_VISIBLE_DEVICES, not counted by Ray; empty: the first one, or none with vLLM's CPU build."""
    judge_gpu_memory_frac: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of those GPUs' memory that it may take."""
    judge_concurrency: int = Field(default=64, ge=1)
    """Judge calls in flight."""
    judge_timeout_s: float = Field(default=60.0, gt=0.0)
    """Seconds for one verdict, its retries included; half of it may pass in silence."""
    judge_cooldown_s: float = Field(default=15.0, ge=0.0)
    """Seconds for which a judge that fails is left alone before it is asked again."""
    judge_cache: bool = True
    """Keep the judge's verdicts in the run's folder, so that a resumed run asks nothing twice."""
    second_opinion: bool = True
    """A judge's YES counts only where the same answer gets a NO beside a wrong reference."""
    canaries_per_batch: int = Field(default=8, ge=0)
    """Cases with a known verdict, asked beside every batch; a judge that gets too many wrong abstains."""

    @field_validator("judge_url")
    @classmethod
    def _no_key(cls, url: str) -> str:
        return refuse_credentials(url, "LONGREACH_JUDGE_KEY")


class EvaluationSection(Section):
    problems_per_window: int = Field(default=200, ge=1)
    """Held-out problems evaluated per window (all, where there are fewer)."""
    windows: list[int] = Field(default_factory=list)
    """Upper bounds of the evaluated windows; empty: the stages' own."""
    every_stage: bool = True
    """Evaluate at every stage's end, not only at the run's."""
    every_steps: int = Field(default=0, ge=0)
    """Also evaluate the last stage's window every this many steps, the start included; 0: never."""
    sampled: bool = True
    """Also evaluate one sampled answer per problem at rollout.temperature, beside the greedy one."""
    checkpoints: dict[str, str] = Field(default_factory=dict)
    """Other models evaluated before training in the same engine, name to folder; the start model is always evaluated as `sft`."""


class TrackingSection(Section):
    wandb: Literal["off", "offline", "online"] = "off"
    """Mirror metrics to Weights & Biases; metrics.jsonl is written whatever this says."""
    project: str = "longreach"
    """W&B project."""
    entity: str = ""
    """W&B user or team that owns the project; empty: your account's default."""
    group: str = ""
    """W&B group, for runs that are looked at together; empty: none."""
    sample_every: int = Field(default=10, ge=0)
    """Steps between two W&B tables of eight of the step's answers; 0: no table."""
    tensorboard: bool = False
    """Also write TensorBoard event files, to run.dir/tensorboard."""


AlarmName = Literal[
    "entropy_collapse",
    "entropy_explosion",
    "sampler_mismatch",
    "reward_without_accuracy",
    "dead_groups",
    "invalid_scores",
    "truncated_answers",
    "skipped_updates",
]


class HealthSection(Section):
    patience: int = Field(default=5, ge=1)
    """Steps in a row past its bound after which an alarm is raised, and steps in a row well inside it after which it is
    cleared; also the steps whose mean is a figure's start."""
    clear_margin: float = Field(default=0.1, ge=0.0, lt=1.0)
    """How far inside its bound, as a share of it, a figure must be for its alarm to be cleared."""
    entropy_min: float = Field(default=0.0, ge=0.0)
    """entropy_collapse: policy/entropy below this many nats; 0: only entropy_min_frac counts."""
    entropy_min_frac: float = Field(default=0.1, ge=0.0, lt=1.0)
    """entropy_collapse: policy/entropy below this share of the run's start."""
    entropy_max_frac: float = Field(default=4.0, gt=1.0)
    """entropy_explosion: policy/entropy above this many times the run's start."""
    max_kl_sampler: float = Field(default=0.01, gt=0.0)
    """sampler_mismatch: policy/kl_sampler above this many nats a token."""
    reward_rise: float = Field(default=0.05, gt=0.0)
    """reward_without_accuracy: in the last stage, reward/mean rose by this much over the last accuracy_evaluations ..."""
    accuracy_rise: float = Field(default=0.0, ge=0.0)
    """... while the greedy accuracy in the same window rose by no more than this."""
    accuracy_evaluations: int = Field(default=3, ge=2)
    """Evaluations over which the two are compared; evaluation.every_steps makes them."""
    max_dead_frac: float = Field(default=0.95, gt=0.0, le=1.0)
    """dead_groups: curriculum/dead_group_frac above this."""
    max_invalid_frac: float = Field(default=0.1, ge=0.0, le=1.0)
    """invalid_scores: reward/invalid_frac above this; reward.max_invalid_frac is where the run ends."""
    max_truncated_frac: float = Field(default=0.5, gt=0.0, le=1.0)
    """truncated_answers: rollout/truncated_frac above this ..."""
    truncated_rise: float = Field(default=0.2, gt=0.0, le=1.0)
    """... or this far above the stage's start."""
    stop_on: list[AlarmName] = Field(default_factory=list)
    """Alarms that end the run, after a checkpoint, with exit 2; empty: none does."""


class RunConfig(Section):
    """Everything `python -m launch.rl` needs."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    stages: list[StageSection] = Field(default_factory=list)
    curriculum: CurriculumSection = CurriculumSection()
    rollout: RolloutSection = RolloutSection()
    learner: LearnerSection = LearnerSection()
    reward: RewardSection = RewardSection()
    evaluation: EvaluationSection = EvaluationSection()
    tracking: TrackingSection = TrackingSection()
    health: HealthSection = HealthSection()

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if not self.stages:
            raise ValueError("stages: at least one [[stages]] table is needed")
        if not self.model.path:
            raise ValueError("model.path: name the model's folder or hub id")
        if self.reward.judge_path and (self.reward.judge_url or self.reward.judge_model):
            raise ValueError("reward.judge_path: the run serves this judge itself; take out judge_url and judge_model")
        if not self.data.train:
            raise ValueError("data.train: name a prepared set (python -m data.prepare makes one)")
        low = 0
        for i, stage in enumerate(self.stages):
            lower = low if stage.min_prompt_tokens is None else stage.min_prompt_tokens
            if stage.max_prompt_tokens <= lower:
                raise ValueError(
                    f"stages.{i}.max_prompt_tokens: {stage.max_prompt_tokens} is not above the window's lower bound {lower}"
                )
            low = stage.max_prompt_tokens
            if self.learner.overlong_buffer_tokens >= stage.max_response_tokens:
                raise ValueError(
                    f"learner.overlong_buffer_tokens: {self.learner.overlong_buffer_tokens} must be below "
                    f"stages.{i}.max_response_tokens {stage.max_response_tokens}"
                )
        return self

    def window(self, stage_index: int) -> tuple[int, int]:
        """(lower bound exclusive, upper bound inclusive) of a stage, in prompt tokens."""
        stage = self.stages[stage_index]
        if stage.min_prompt_tokens is not None:
            return stage.min_prompt_tokens, stage.max_prompt_tokens
        low = self.stages[stage_index - 1].max_prompt_tokens if stage_index else 0
        return low, stage.max_prompt_tokens
