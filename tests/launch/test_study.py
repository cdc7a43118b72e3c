"""The study: its files agree with each other, lanes do what they say, and the table says what the runs' folders hold."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from launch.cli import ConfigError, load_config
from launch.study import CONFIGS, StudyConfig, VariantSection, training_part
from launch.study_lanes import Part, run_lanes
from launch.study_report import page, read_outcome, time_to, write_study
from launch.study_trl_config import StudyTrlConfig, refuse_what_trl_cannot
from rl.config import RunConfig

STUDIES = sorted(path for path in CONFIGS.glob("*.toml") if "[[variants]]" in path.read_text())
WINDOWS = [96, 160, 320, 640, 800]
SMALL = ["--windows", str(WINDOWS), "--num_facts", "[6, 12, 24, 48, 60]", "--seeds", "[0, 1, 2]"]


def study(path: Path, *overrides: str) -> StudyConfig:
    return load_config(StudyConfig, [str(path), *overrides], prog="python -m launch.study").config


def config_of(variant: VariantSection) -> RunConfig:
    model = StudyTrlConfig if variant.trainer == "trl" else RunConfig
    return load_config(model, [str(CONFIGS / variant.config), *variant.overrides], prog="study").config


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_is_a_valid_run_with_the_rollouts_of_the_others(path: Path) -> None:
    config = study(path)
    rollouts = set()
    for variant in config.variants:
        run = config_of(variant)
        if isinstance(run, StudyTrlConfig):
            refuse_what_trl_cannot(run)
        section = run.curriculum
        assert section.max_refill_rounds == 0  # refills would give a variant more rollouts than another
        rollouts.add(sum(stage.steps for stage in run.stages) * section.problems_per_step * section.group_size)
        assert run.evaluation.windows == config.windows
        assert run.stages[-1].max_prompt_tokens == config.windows[-2]
        assert run.evaluation.problems_per_window == config.num_test
    assert len(rollouts) == 1


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_differs_from_the_others(path: Path) -> None:
    seen = [(v.trainer, config_of(v).model_dump(exclude={"run"})) for v in study(path).variants]
    assert all(one not in seen[:i] for i, one in enumerate(seen))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--control", "absent"], "control='absent'"),
        (["--num_facts", "[1]"], "num_facts: 1 values for 6 windows"),
        (["--variants.0.time_of", "staged"], "variants.0.time_of: seen 'staged'"),
        (["--variants.0.name", "staged"], "must be different names"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        study(CONFIGS / "study.toml", *words)


def test_parts_run_once_and_a_failure_stops_what_has_not_begun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def part(name: str, words: list[object], done: str) -> Part:
        return Part(name=name, words=words, done=tmp_path / done, log=tmp_path / f"{name}.log")

    source = tmp_path / "a.py"
    source.write_text("x = 1\n")
    first = part("first", ["tokenize", source], "never")
    failing = part("failing", ["tokenize", tmp_path / "absent.py"], "never")
    later = part("later", ["tokenize", source], "never")
    assert run_lanes([first, failing, later], lanes=1, threads=1) == 1
    assert "NAME" in (tmp_path / "first.log").read_text()
    assert not (tmp_path / "later.log").exists()
    captured = capfd.readouterr()
    assert "failing: exit code 1; " in captured.err
    assert "absent.py" in captured.err
    assert run_lanes([part("again", ["tokenize", source], "a.py")], lanes=2, threads=1) == 0
    assert not (tmp_path / "again.log").exists()  # done already


def write_run(folder: Path, final: float, *, seconds: float, reached_at: int) -> None:
    """Four steps of `seconds` each, the evaluated ones with 5 more; 0.8 in the last trained window from `reached_at` on."""
    folder.mkdir(parents=True)
    rows = []
    for step in range(1, 5):
        row = {"step": step, "reward/mean": 0.5, "policy/entropy": 0.3, "policy/kl_sampler": 1e-6}
        row |= {"rollout/num_sampled_groups": 96, "rollout/prompt_tokens_mean": 500.0, "time/step_s": seconds}
        if step % 2 == 0:
            row |= {"eval/greedy/640/accuracy": 0.8 if step >= reached_at else 0.1}
            row |= {"time/eval_s": 5.0, "time/step_s": seconds + 5.0}
        rows.append(row)
    (folder / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    accuracy = {"sft": dict.fromkeys(map(str, WINDOWS), 0.25), "final": dict.fromkeys(map(str, WINDOWS), final)}
    (folder / "summary.json").write_bytes(orjson.dumps({"accuracy": accuracy}))


@pytest.fixture
def finished(tmp_path: Path) -> StudyConfig:
    config = study(CONFIGS / "study.toml", "--dir", str(tmp_path / "study"), *SMALL)
    for seed in config.seeds:
        write_run(config.run_folder("longest", seed), 0.10 + 0.01 * seed, seconds=10.0, reached_at=9)
        write_run(config.run_folder("replay", seed), 0.60 + 0.02 * seed, seconds=5.0, reached_at=4)
    return config


def test_the_table_has_means_intervals_and_training_time_without_evaluation(finished: StudyConfig) -> None:
    replay = next(variant for variant in finished.variants if variant.name == "replay")
    outcome = read_outcome(finished, replay)
    assert outcome is not None
    assert outcome.train_s == (20.0, 20.0, 20.0)
    assert outcome.reached_s == (20.0, 20.0, 20.0)
    assert time_to(finished.run_folder("longest", 0), 640, 0.75) is None
    text = page(finished, {"replay": outcome}, [], folder="")
    # 0.60, 0.62, 0.64: mean 0.62, s = 0.02, t(2) = 4.303: 4.303 * 0.02 / sqrt(3) = 0.0497.
    assert "| staged + replay | 3 | 0.62 ± 0.05 |" in text
    assert "| 20 | 20 |" in text
    assert "| after SFT | 3 | 0.25 ± 0.00 |" in text


def test_verdicts_say_how_far_from_the_control_and_whether_intervals_overlap(finished: StudyConfig) -> None:
    written = write_study(finished, wall_s=1.0, docs=None)
    assert written is not None
    text = written.read_text()
    # The control: 0.10, 0.11, 0.12, mean 0.11, half 0.025.
    assert "against single stage, longest window (0.11 [0.09, 0.13]):" in text
    assert "- staged + replay: +0.51, 0.62 [0.57, 0.67]; the intervals do not overlap; seed by seed" in text
    # The differences are 0.50, 0.51, 0.52: mean 0.51, s = 0.01, half 4.303 * 0.01 / sqrt(3) = 0.025.
    assert "seed by seed +0.51 [+0.49, +0.53] on 3 seeds" in text
    assert "not reached" in text
    for name in ("accuracy.svg", "accuracy_over_time.svg", "policy_entropy.svg", "policy_kl_sampler.svg"):
        assert f"]({name})" in text
        assert (written.parent / name).read_text().startswith("<svg")


def test_one_seed_has_no_interval_to_compare(finished: StudyConfig) -> None:
    one = finished.model_copy(update={"seeds": [0]})
    written = write_study(one, wall_s=1.0, docs=None)
    assert written is not None
    assert "- staged + replay: +0.50, 0.60 [0.60, 0.60]; without an interval" in written.read_text()


def test_a_variant_may_run_on_more_seeds_than_the_others(finished: StudyConfig) -> None:
    replay = next(v for v in finished.variants if v.name == "replay").model_copy(update={"more_seeds": [2, 7]})
    others = [v.model_copy(update={"more_seeds": []}) for v in finished.variants if v.name != "replay"]
    more = finished.model_copy(update={"variants": [*others, replay]})
    assert more.seeds_of(replay) == more.all_seeds() == [0, 1, 2, 7]
    assert more.seeds_of(others[0]) == [0, 1, 2]
    write_run(more.run_folder("replay", 7), 0.74, seconds=5.0, reached_at=4)
    outcome = read_outcome(more, replay)
    assert outcome is not None
    assert outcome.accuracy["640"] == [0.60, 0.62, 0.64, 0.74]
    assert "| staged + replay | 4 | 0.65 ± " in page(more, {"replay": outcome}, [], folder="")


def test_docs_get_the_table_between_their_marks_and_nothing_else_changes(finished: StudyConfig, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "study.md").write_text("before\n<!-- study -->\nold\n<!-- /study -->\nafter\n")
    write_study(finished, wall_s=1.0, docs=docs)
    text = (docs / "study.md").read_text()
    assert text.startswith("before\n<!-- study -->\n| ")
    assert text.endswith("<!-- /study -->\nafter\n")
    assert "old" not in text
    assert "](study/accuracy.svg)" in text
    assert (docs / "study" / "accuracy.svg").exists()


def test_docs_without_marks_are_left_alone(finished: StudyConfig, tmp_path: Path) -> None:
    (tmp_path / "study.md").write_text("no marks")
    with pytest.raises(ValueError, match="are not both there"):
        write_study(finished, wall_s=1.0, docs=tmp_path)
    assert (tmp_path / "study.md").read_text() == "no marks"


def test_nothing_finished_is_no_page(tmp_path: Path) -> None:
    config = study(CONFIGS / "study.toml", "--dir", str(tmp_path))
    assert write_study(config, wall_s=0.0, docs=None) is None


def test_a_limited_variant_gets_a_multiple_of_the_other_s_training_seconds(tmp_path: Path) -> None:
    config = study(CONFIGS / "study.toml", "--dir", str(tmp_path))
    limited = next(variant for variant in config.variants if variant.time_of)
    write_run(config.run_folder(limited.time_of, 1), 0.5, seconds=10.0, reached_at=4)
    words = [str(word) for word in training_part(config, limited, 1, threads=1).words]
    assert words[0] == "launch.study_trl"
    assert words[words.index("--trl.max_train_s") + 1] == "80.0"  # twice 40
