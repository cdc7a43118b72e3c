"""The report: says what happened, with what is there, and lets nothing that a model wrote become markup."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from data.problem import Problem
from launch.charts import BOTTOM, TOP, Band, Series, area_chart, category_chart, line_chart
from launch.cli import ConfigError
from launch.report import write_report
from launch.report_accuracy import accuracy_cell, change_between
from launch.report_facts import headline
from launch.report_page import TEMPLATES, duration, json_block, visible
from launch.report_rollouts import NO_ROLLOUTS
from launch.report_stages import trained_up_to
from launch.run_record import Alarm, RunRecord, read_run
from rewards.types import Score
from rl.config import RunConfig, TrackingSection
from rl.metrics import MetricsLog
from rl.rollout_log import write_rollouts
from rl.run_folder import Evaluation, WindowAccuracy, write_config, write_evaluation, write_summary
from rl.types import Rollout, RolloutGroup

XSS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "</pre><img src=x onerror=alert(1)>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</textarea><svg onload=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "</text></svg><script>alert(1)</script>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><a xlink:href='javascript:alert(1)'><text x=20 y=20>x</text></a></svg>",
    "<a href=javascript:alert(1)>x</a>",
    '<a href="JaVaScRiPt:alert(1)">x</a>',
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "javascript:alert(1)",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "<img src=https://evil.example/pixel.png>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<form action=javascript:alert(1)><button>x</button></form>",
    "<button formaction=javascript:alert(1)>x</button>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import url(https://evil.example/x.css)</style>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    '"><details open ontoggle=alert(1)>',
    "<details/open/ontoggle=alert(1)>",
    "<body onload=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<math><mtext></table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--><script>alert(1)</script-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "\\x3cscript\\x3ealert(1)\\x3c/script\\x3e",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}{{ self.__init__.__globals__ }}",
    "\u202e\u2066<script>alert(1)</script>\u2069",
    "\ufeff<script>alert(1)</script>",
    "<x style='background:url(javascript:alert(1))'>",
    "<marquee onstart=alert(1)>",
)
ALLOWED_TAGS = frozenset(
    "html head meta title style script body header p b span h1 h2 h3 h4 dl div dt dd section ul li figure figcaption i svg rect "
    "text line g polyline polygon circle table caption thead tbody tfoot tr th td small details summary pre footer "
    "form label input select button datalist noscript".split()
)
ALLOWED_ATTRIBUTES = frozenset(
    "class lang charset http-equiv content name scope viewbox role aria-label x y width height x1 x2 y1 y2 cx cy r points "
    "id type placeholder autocomplete spellcheck list hidden".split()
)


class _Page(HTMLParser):
    """Collects a page's tags, attributes and shown text; character references resolved as a browser would."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # neither script nor style
            self.text += data


def rollout_group(number: int, responses: Sequence[tuple[str, float | None]], **fields: Any) -> RolloutGroup:
    """A group with the given (response, outcome) pairs; an unknown outcome is a judge's timeout."""
    problem = {
        "problem_id": f"lookup-{number}",
        "task": "lookup",
        "context": "The register of the harbour office, continued. " * 40,
        "question": "Which special number belongs to the harbour of Dunwich?",
        "answers": ("48213",),
        "answer_type": "number",
        "num_prompt_tokens": 412,
        **fields,
    }
    rollouts = tuple(
        Rollout(
            sample_index=i,
            token_ids=tuple(range(len(text.split()))),
            sampling_logprobs=(-0.1,) * len(text.split()),
            text=text,
            finish_reason="length" if i == 2 else "stop",
            score=Score(
                value=outcome,
                status="timeout" if outcome is None else "ok",
                source="judge" if outcome is None else "rule",
                answer=text.rsplit(maxsplit=1)[-1],
                reason="number equal" if outcome else "number differs",
            ),
            reward=outcome,
        )
        for i, (text, outcome) in enumerate(responses)
    )
    return RolloutGroup(problem=Problem(**problem), prompt_token_ids=(1,), rollouts=rollouts, policy_version=number)


CONFIG = RunConfig.model_validate(
    {
        "run": {"name": "demo"},
        "model": {"path": "models/tiny-sft"},
        "data": {"train": "prepared/train", "test": "prepared/test"},
        "stages": [
            {"max_prompt_tokens": bound, "steps": 20, "replay_frac": 0.0 if bound == 160 else 0.25}
            for bound in (160, 512, 1024)
        ],
    }
)


def write_run(run_dir: Path, *, num_steps: int = 60, ended: bool = True) -> None:
    """A run as training would leave it, its numbers made up but shaped like a real run's."""
    chance = random.Random(3)
    write_config(
        run_dir, CONFIG.model_dump(), {"commit": "0e45bb5c", "versions": {"torch": "2.13.0", "python": "3.11.9"}}
    )
    metrics = MetricsLog(run_dir, TrackingSection(), CONFIG.model_dump(), None)
    for step in range(1, num_steps + 1):
        stage, inside = divmod(step - 1, 20)
        reward = 0.9 - 0.5 * math.exp(-(step - 12 * stage) / 18) - 0.05 * stage + chance.gauss(0, 0.04)
        metrics.log(
            step,
            {
                "reward/mean": reward,
                "reward/lookup/mean": min(1.0, reward + 0.1),
                "reward/chain/mean": reward - 0.1,
                "reward/invalid_frac": 0.02 if step % 9 == 0 else 0.0,
                "rollout/response_tokens_mean": 18 + 6 * stage + chance.gauss(0, 1),
                "rollout/truncated_frac": max(0.0, 0.1 - 0.002 * step + chance.gauss(0, 0.01)),
                "policy/entropy": math.nan if step == 31 else 0.7 * math.exp(-step / 40) + chance.gauss(0, 0.015),
                "policy/kl_sampler": 2e-6 * math.exp(chance.gauss(0, 0.4)),
                "policy/kl_sampler_max": 6e-4 * math.exp(chance.gauss(0, 0.5)),
                "curriculum/stage": stage,
                "curriculum/replay_frac": 0.25 if stage else 0.0,
                "curriculum/dead_group_frac": min(0.9, 0.2 + 0.01 * inside + chance.gauss(0, 0.05)),
                "time/rollout_s": 2.0 + stage + chance.gauss(0, 0.1),
                "time/learn_s": 0.8 + 0.5 * stage,
                "time/sync_s": 0.2,
                "time/eval_s": 45.0 if inside == 19 else 0.0,
                "time/step_s": 3.3 + 1.5 * stage + (45.0 if inside == 19 else 0.0),
                "perf/tokens_per_s": 3000 + chance.gauss(0, 200),
                "optim/grad_norm": 0.8 * math.exp(chance.gauss(0, 0.3)),
            },
        )
    metrics.close()
    for step in range(1, num_steps + 1, 10):
        thought = "The register says that the harbour of Dunwich has the special number "
        good = (f"<think>\n{thought * 3}48213.\n</think>\nTherefore, the answer is 48213", 1.0)
        bad = (f"<think>\n{thought}48231.\n</think>\nTherefore, the answer is 48231", 0.0)
        mixed = rollout_group(step, [good, bad, (thought * 20, 0.0), (bad[0], None)])
        write_rollouts(run_dir, step, [(mixed, (1.15, -0.58, -0.58, None))], [rollout_group(step + 1, [good, good])])
    at_end = {"base": 0.0, "sft": 0.31, "stage-1": 0.52, "stage-2": 0.66, "stage-3": 0.75, "final": 0.75}
    evaluations = [
        Evaluation(
            checkpoint=name,
            step=min(60, max(0, i - 1) * 20),
            windows={
                str(bound): WindowAccuracy(num=200, greedy=max(0.0, peak + 0.2 - j * 0.09), sampled=max(0.0, peak + 0.14 - j * 0.09))
                for j, bound in enumerate((160, 512, 1024, 2048))
            },
        )
        for i, (name, peak) in enumerate(at_end.items())
    ]  # fmt: skip
    evaluations = evaluations if ended else evaluations[:3]
    for evaluation in evaluations:
        write_evaluation(run_dir, evaluation)
    if ended:
        write_summary(
            run_dir, wall_s=843.0, seed=0, commit="0e45bb5c", versions={"torch": "2.13.0", "python": "3.11.9"},
            num_problems={"160": 600, "512": 600, "1024": 600}, evaluations=evaluations,
        )  # fmt: skip


def text_of(path: Path) -> str:
    return " ".join(_Page(path.read_text(encoding="utf-8")).text.split())


def test_a_finished_run_says_in_one_sentence_what_happened(tmp_path: Path) -> None:
    write_run(tmp_path)
    page = write_report(tmp_path)
    assert (
        "60 steps over 3 stages in 14 min 3 s: from sft to final, accuracy on prompts of up to 1,024 tokens rose from 33.0% "
        "to 77.0%, and of up to 2,048, longer than any it trained on, rose from 24.0% to 68.0%."
    ) in text_of(page)
    assert read_run(tmp_path).missing == ()
    assert page.stat().st_size < 400_000


def test_the_page_shows_every_part(tmp_path: Path) -> None:
    write_run(tmp_path)
    told = text_of(write_report(tmp_path, tmp_path / "elsewhere" / "page.html"))
    for part in (
        "finished", "models/tiny-sft", "Accuracy by prompt length", "stage-2", "sampled 71.0%", "not trained on", "+44.0",
        "Reward by task", "Response length", "Entropy", "sampler to learner", "Dead groups", "replayed", "eval 32%", "other 4%",
        "step 31: entropy none", "step 1", "step 31", "step 51", "Therefore, the answer is 48213", "+1.150", "not trained on",
        "judge, timeout", "cut off", "number differs", "policy/kl_sampler", "prepared/train", "2.13.0",
    ):  # fmt: skip
        assert part in told, part


def test_a_run_that_is_still_going_is_shown_and_what_lacks_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=23, ended=False)
    told = text_of(write_report(tmp_path))
    assert "not finished" in told
    assert "23 of 60 steps: from sft to stage-1, accuracy on prompts of up to 160 tokens rose" in told
    assert "summary.json is missing: the run is still going, or it was stopped before its end." in told


def test_the_last_stage_is_not_shown_twice(tmp_path: Path) -> None:
    write_run(tmp_path)
    told = text_of(write_report(tmp_path))
    assert "stage-3" not in told
    assert "stage-2" in told


def test_every_piece_may_be_missing(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_run(whole, num_steps=3)
    pieces = {
        "config.toml": "config.toml is missing",
        "metrics.jsonl": "metrics.jsonl has no rows",
        "summary.json": "summary.json is missing",
        "evaluations": "",  # the summary has the accuracy too
        "rollouts": "rollouts/ is missing or empty",
    }
    for lacking, said in pieces.items():
        run_dir = tmp_path / lacking
        run_dir.mkdir()
        for path in whole.iterdir():
            if path.name != lacking:
                (run_dir / path.name).symlink_to(path)
        told = text_of(write_report(run_dir))
        assert said in told
        assert "Before and after" in told
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "metrics.jsonl").write_bytes(b'{"step":1,"reward/mean":0.25}\n{"step":2,"rew')
    assert "1 step: mean reward in training went from 0.25 to 0.25; not yet evaluated" in text_of(write_report(alone))


def test_alarms_are_told_and_a_line_that_was_cut_is_counted(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=3)
    assert read_run(tmp_path).alarms == ()
    raised = {"step": 2, "name": "dead_groups", "message": "dead_groups: 0.97, bound 0.95", "raised": True}
    cleared = {"step": 3, "name": "dead_groups", "message": "dead_groups cleared", "raised": False}
    lines = orjson.dumps(raised) + b"\n" + orjson.dumps(cleared) + b'\n{"step": 3, "na'
    (tmp_path / "alarms.jsonl").write_bytes(lines)
    assert read_run(tmp_path).alarms == (Alarm(**raised), Alarm(**cleared))
    told = text_of(write_report(tmp_path))
    for part in ("2dead_groupsraised", "3dead_groupscleared", "alarms1", "alarms.jsonl: 1 of 3 lines cannot be read"):
        assert part in told, part


def test_files_that_cannot_be_read_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=3)
    (tmp_path / "config.toml").write_text("[run\n")
    (tmp_path / "summary.json").write_bytes(b"")
    (tmp_path / "evaluations" / "sft.json").write_bytes(b"{")
    (tmp_path / "evaluations" / "base.json").write_bytes(b'{"checkpoint": "base", "step": "0", "windows": {}}')
    (tmp_path / "rollouts" / "step-000001.parquet").write_bytes(b"PAR1")
    told = text_of(write_report(tmp_path))
    for name in (
        "config.toml cannot be read",
        "summary.json cannot be read",
        "sft.json: not an evaluation",
        "base.json: not an evaluation (step: Input should be a valid integer)",
        "not a readable parquet",
    ):
        assert name in told
    assert [e.checkpoint for e in read_run(tmp_path).evaluations] == ["stage-1", "stage-2", "final"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        write_report(tmp_path / "no")
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(tmp_path)


def assert_inert(page: str) -> _Page:
    """Nothing in a page but the template's own tags and attributes, its one script, and no reference to anything outside."""
    parsed = _Page(page)
    assert set(parsed.tags) <= ALLOWED_TAGS, set(parsed.tags) - ALLOWED_TAGS
    names = {name for name, _ in parsed.attributes}
    assert names <= ALLOWED_ATTRIBUTES, names - ALLOWED_ATTRIBUTES
    assert not any("://" in value or "javascript:" in value.lower() for _, value in parsed.attributes)
    [policy] = [value for name, value in parsed.attributes if name == "content" and "default-src" in value]
    assert re.fullmatch(
        r"default-src 'none'; script-src 'sha256-[\w+/=]{44}'; style-src 'sha256-[\w+/=]{44}'; base-uri 'none'; "
        r"form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        policy,
    )
    blocks = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    kinds = [kind for kind, _ in blocks]
    assert kinds in ([], [' type="application/json" id="rollout-data"', ""])
    for kind, text in blocks:
        if kind:
            assert not set("<>&") & set(text)
        else:
            assert text == (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return parsed


def test_the_page_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    write_run(tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    parsed = assert_inert(page)
    assert "url(" not in page
    assert "@import" not in page
    assert parsed.tags.count("style") == 1
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
        "href",
    ):
        assert sink not in script


@pytest.mark.parametrize("attack", XSS)
def test_what_a_model_wrote_stays_text(attack: str, tmp_path: Path) -> None:
    group = rollout_group(
        1, [(attack, 1.0), (f"{attack} {attack}", 0.0)], problem_id=attack, task=attack, context=attack * 300,
        question=attack, answers=(attack,), answer_type="text",
    )  # fmt: skip
    config = {**CONFIG.model_dump(), "run": {"name": attack}}
    write_config(tmp_path, config, {"versions": {attack: attack}, "commit": attack})
    metrics = MetricsLog(tmp_path, TrackingSection(), CONFIG.model_dump(), None)
    metrics.log(1, {"reward/mean": 0.5, f"reward/{attack}/mean": 0.5, "reward/lookup/mean": 0.5})
    metrics.close()
    write_rollouts(tmp_path, 1, [(group, (1.0, -1.0))])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    parsed = assert_inert(page)
    assert visible(attack) in parsed.text, "the attack must be shown, as text"


def test_there_are_enough_attacks() -> None:
    assert len(set(XSS)) >= 40


def test_a_json_block_can_neither_end_nor_begin_another() -> None:
    block = json_block({"text": '</script><!--<script>]]>&amp;\u2028\u2029\\"'})
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == {"text": '</script><!--<script>]]>&amp;\u2028\u2029\\"'}


def test_hidden_characters_are_shown() -> None:
    assert visible("a\x00\x1b\tb\n\x7f\u202e\u200b") == "a\u2400\u241b\tb\n[U+007F][U+202E][U+200B]"
    assert visible("\ud800") == "[U+D800]"
    assert (
        visible("e\u0301 \U0001f468\u200d\U0001f469 \u0645\u200c\u0627")
        == "e\u0301 \U0001f468\u200d\U0001f469 \u0645\u200c\u0627"
    )


def test_a_windows_interval_is_wilsons_and_unknown_without_a_count() -> None:
    # Share 0 of 100: [0, z^2 / (100 + z^2)], of which half is 3.841459 / 207.682918.
    cell = accuracy_cell(WindowAccuracy(num=100, greedy=0.0))
    assert cell is not None and cell.half_width == pytest.approx(0.0184967, abs=1e-7)
    unknown = accuracy_cell(WindowAccuracy(num=0, greedy=0.0))
    assert unknown is not None and unknown.half_width is None


def test_a_small_change_is_said_to_be_chance_and_a_large_one_is_not() -> None:
    half = WindowAccuracy(num=100, greedy=0.5)
    assert not change_between(half, WindowAccuracy(num=100, greedy=0.55)).is_clear
    clear = change_between(half, WindowAccuracy(num=100, greedy=0.75))
    assert clear.is_clear
    # Newcombe's example of his method 10: 56 of 70 against 48 of 80 has the 95 % interval 0.0524 to 0.3339
    newcombe = change_between(WindowAccuracy(num=80, greedy=48 / 80), WindowAccuracy(num=70, greedy=56 / 70))
    assert newcombe.points - newcombe.half_width == pytest.approx(5.24, abs=0.01)  # type: ignore[operator]


def _record(before: float, after: float, num: int = 200) -> RunRecord:
    evaluations = tuple(
        Evaluation(checkpoint=name, step=step, windows={"160": WindowAccuracy(num=num, greedy=share)})
        for name, step, share in (("sft", 0, before), ("final", 20, after))
    )
    return RunRecord(
        name="r", config={}, config_text="", meta={}, rows=(), evaluations=evaluations, summary={}, alarms=(),
        rollouts=NO_ROLLOUTS, results=(), missing=(),
    )  # fmt: skip


def test_the_headline_admits_a_fall_a_standstill_and_chance() -> None:
    assert headline(_record(0.8, 0.5)).endswith("up to 160 tokens fell from 80.0% to 50.0%.")
    assert headline(_record(0.5, 0.5)).endswith("up to 160 tokens stayed at 50.0%.")
    assert headline(_record(0.5, 0.52)).endswith("rose from 50.0% to 52.0%, which may be chance.")


def test_a_window_counts_as_trained_only_up_to_the_evaluated_checkpoint(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=23, ended=False)  # in stage 2, last evaluated at the end of stage 1
    assert trained_up_to(read_run(tmp_path)) == 160


def test_a_missing_value_is_a_gap_and_not_a_zero() -> None:
    chart = line_chart("t", "", [1, 2, 3, 4], [Series(label="s", values=(1.0, None, 1.0, 2.0))], text=str, floor=0.0)
    (line,) = chart.lines
    assert len(line.bold) == 1  # steps 3 and 4
    assert len(line.dots) == 1  # step 1 stands alone
    assert line.bold[0].split()[1] == f"412,{TOP}"  # the last step at the right edge, 2.0 at the top
    assert chart.hovers[1].text == "step 2: s none"


def test_the_moving_mean_does_not_reach_over_a_stages_edge() -> None:
    steps = list(range(1, 61))
    values = tuple(0.0 if step <= 30 else 1.0 for step in steps)
    bands = [Band(first=1, last=30, label="a"), Band(first=31, last=60, label="b")]
    chart = line_chart("t", "", steps, [Series(label="s", values=values)], bands, text=str)
    heights = {point.split(",")[1] for point in chart.lines[0].bold[0].split()}
    assert heights == {f"{BOTTOM}", f"{TOP}"}


def test_one_step_and_thousands_of_steps_can_be_drawn() -> None:
    one = [Series(label="s", values=(3.0,))]
    assert line_chart("t", "", [7], one, text=str).lines[0].dots
    assert area_chart("t", "", [7], one, text=str).areas[0].points
    steps = list(range(1, 10_001))
    many = [Series(label="s", values=tuple(float(step) for step in steps))]
    assert len(line_chart("t", "", steps, many, text=str, log=True).hovers) <= 240
    assert line_chart("t", "", steps, [Series(label="s", values=(None,) * 10_000)], text=str).empty


def test_counts_that_add_up_get_no_moving_mean() -> None:
    steps = list(range(1, 31))
    series = [Series(label="s", values=tuple(float(step) for step in steps))]
    (plain,) = line_chart("t", "", steps, series, text=str, smooth=False).lines
    (smoothed,) = line_chart("t", "", steps, series, text=str).lines
    assert not plain.faint and plain.bold == smoothed.faint


def test_a_table_of_many_windows_stacks_its_figures_to_stay_narrow(tmp_path: Path) -> None:
    for num_windows, is_compact in ((4, False), (5, True)):
        run_dir = tmp_path / str(num_windows)
        windows = {str(160 * (i + 1)): WindowAccuracy(num=8, greedy=0.5) for i in range(num_windows)}
        for checkpoint in ("sft", "final"):
            write_evaluation(run_dir, Evaluation(checkpoint=checkpoint, step=0, windows=windows))
        page = write_report(run_dir).read_text(encoding="utf-8")
        assert ('<table class="compact">' in page) == is_compact


def test_times_read_as_people_say_them() -> None:
    assert [duration(s) for s in (9.4, 75, 3600 * 26 + 61)] == ["9 s", "1 min 15 s", "26 h 1 min"]


def test_judge_and_tasks_have_charts_only_where_there_is_something_to_show(tmp_path: Path) -> None:
    row = {
        "step": 1,
        "reward/mean": 0.5,
        "reward/chain/mean": 0.5,
        "reward/rule_mean": 0.4,
        "judge/canary_right_frac": 1.0,
    }
    seen = {}
    for judged_frac in (0.0, 0.25):
        (tmp_path / "metrics.jsonl").write_bytes(orjson.dumps({**row, "reward/judged_frac": judged_frac}))
        seen[judged_frac] = text_of(write_report(tmp_path))
    for title in ("Rule and judge", "The judge's health"):
        assert title not in seen[0.0] and title in seen[0.25]
    assert "Reward by task" not in seen[0.25]


def test_names_below_a_chart_are_thinned_before_they_touch() -> None:
    few, many = (
        category_chart("t", "", [f"≤{20_000 * (i + 1):,}" for i in range(num)], [], [], text=str) for num in (4, 10)
    )
    assert len(few.x_ticks) == 4
    assert [tick.text for tick in many.x_ticks] == ["≤20,000", "≤60,000", "≤100,000", "≤140,000", "≤180,000"]
