"""The settings of `python -m launch.eval`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rewards.judge_client import refuse_credentials
from rl.config import RolloutSection, Section


class EvalConfig(Section):
    """Answers the problems of one or more suites with a model and scores the answers."""

    model: str
    """Folder or hub id of a model in Hugging Face form (a ModelScope id as modelscope:owner/name), or the base URL of an
    OpenAI-compatible endpoint (http://...)."""
    suite: list[str] = Field(min_length=1)
    """One or more, comma between them: a prepared set (python -m data.prepare), a name (docmath, frames, 2wikimqa, hotpotqa,
    musique, narrativeqa, qasper; longdocqa: these seven; longbench, longbench_v2), a suite's TOML file, or any file, folder or
    hub id that data.prepare reads."""
    suite_dir: str = ""
    """Folder that holds the rows of named suites as NAME.jsonl, NAME.parquet or a folder NAME; empty: they are on the Hub."""
    out: str = ""
    """A name that ends in .json: the file for figures and items; any other: a folder, which gets a result.json. The answers
    stand beside it as they come, and the same command goes on with them. Empty: the table on stdout alone."""
    windows: list[int] = Field(default_factory=list)
    """Upper bounds in prompt tokens; empty: a prepared set's own, and one more up to its longest prompt; else 20000, 60000, 120000."""
    problems_per_window: int | None = Field(default=None, ge=1)
    """Problems per window (all, where there are fewer), chosen by the seed; none: 200 of a prepared set, all of another suite."""
    max_prompt_tokens: int | None = Field(default=None, gt=0)
    """Longer prompts are cut in the document's middle, and counted; none: the suite's limit (named: 120000), nothing of a prepared set."""
    max_response_tokens: int | None = Field(default=None, gt=0)
    """Output limit; none: the suite's (named: 10000), 1024 for a prepared set."""
    greedy: bool = True
    """Draw one answer per problem at temperature 0."""
    sampled: bool = True
    """Draw num_samples answers per problem at temperature and top_p."""
    num_samples: int = Field(default=1, ge=1)
    """Sampled answers per problem: accuracy is their mean (avg@k), and pass@1, 2, 4, ... are told beside it."""
    temperature: float | None = Field(default=None, gt=0.0)
    """Of sampled answers; none: the suite's, which is 0.7 as in QwenLong-L1 (arXiv 2505.17667)."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Nucleus mass of sampled answers; none: the suite's, which is 0.95."""
    seed: int = Field(default=0, ge=0)
    """Chooses the problems and seeds the draws."""
    batch: int = Field(default=256, ge=1)
    """Problems answered between two writes to disk: what a kill can cost."""
    without_document: bool = False
    """Ask with an empty document: `out` then names what needs none, for data.prepare --drop-answerable. A guess is right
    for half of the yes/no questions and one of the options of a choice: give several such files (--seed 0, 1, ...) and
    raise --answerable-above. problems_per_window must reach the whole set; what was not asked is kept."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """What samples; auto takes vLLM where it is installed."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Parameters' type; auto: bfloat16 on CUDA, float32 on CPU."""
    threads: int = Field(default=0, ge=0)
    """Compute threads on CPU; 0: all cores."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of the engine (vLLM)."""
    gpu_memory_frac: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of GPU memory that vLLM may take."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0)
    """CPU memory for vLLM's key/value cache, in GiB (CPU build only)."""
    model_name: str = ""
    """The model's name at the endpoint; its key comes from LONGREACH_MODEL_KEY."""
    tokenizer: str = ""
    """Folder or hub id of the endpoint's tokenizer: counts and cuts prompts, and tells whether they open a thought. A prepared set
    needs none."""
    concurrency: int = Field(default=16, ge=1)
    """Requests in flight at the endpoint."""
    request_timeout_s: float = Field(default=1200.0, gt=0.0)
    """Seconds for one response of the endpoint."""
    judge_url: str = ""
    """Base URL of an OpenAI-compatible endpoint; empty: the rule decides alone. The key comes from LONGREACH_JUDGE_KEY."""
    judge_model: str = ""
    """Model name at that endpoint."""
    max_invalid_frac: float = Field(default=0.1, ge=0.0, le=1.0)
    """A larger share of answers without a valid score ends the command with exit 4, after the figures are written."""

    @property
    def is_endpoint(self) -> bool:
        """Whether the model is asked over HTTP."""
        return self.model.startswith(("http://", "https://"))

    @property
    def rollout(self) -> RolloutSection:
        """The engine's share of these settings."""
        return RolloutSection(
            engine=self.engine,
            tensor_parallel=self.tensor_parallel,
            gpu_memory_frac=self.gpu_memory_frac,
            kv_cache_gib=self.kv_cache_gib,
        )

    @field_validator("suite", mode="before")
    @classmethod
    def _one_suite(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("model")
    @classmethod
    def _no_model_key(cls, model: str) -> str:
        return refuse_credentials(model, "LONGREACH_MODEL_KEY")

    @field_validator("judge_url")
    @classmethod
    def _no_judge_key(cls, url: str) -> str:
        return refuse_credentials(url, "LONGREACH_JUDGE_KEY")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_endpoint != bool(self.model_name):
            raise ValueError(
                f"model_name: seen {self.model_name!r} with model {self.model!r}; an endpoint needs the model's name there, "
                "and a model in this process has none"
            )
        if not self.greedy and not self.sampled:
            raise ValueError("greedy, sampled: both are off; leave one on")
        return self
