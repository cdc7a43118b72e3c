"""The pool keeps its deadlines and its size whatever is compared; real processes throughout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rewards.pool import GRACE_S, MAX_TEXT_CHARS, SymbolicPool, SymbolicReply
from tests.rewards.bombs import bombs

ROOT = Path(__file__).resolve().parents[2]
TOWER = "9^{9^{9^{9}}}"
POISON = [
    TOWER, "10^{9^{9}}", "99999999!", "((9!)!)!", "7^{10^{12}}", r"\binom{900000000}{4000000}", "e^{e^{e^{e^{9}}}}",
    r"\sin(3^{30000000})", "3^{9^{9}}+5^{9^{9}}", "(10^{8})!", r"\frac{1}{9^{9^{9}}}", r"\sqrt{9^{9^{9}}}",
    "x+9^{9^{9}}", r"\ln(9^{9^{9}})", "|9^{9^{9}}|", r"\cos(9^{9^{9}})",
]  # fmt: skip
RIGHT = (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}")
WRONG = (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{2}}{2}")
GOLD = r"\frac{\sqrt{2}}{2}"


@pytest.fixture(name="pool")
def new_pool() -> Iterator[Callable[..., SymbolicPool]]:
    made: list[SymbolicPool] = []

    def make(**settings: float) -> SymbolicPool:
        made.append(SymbolicPool(**settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pool in made:
        pool.close()
        assert pool.num_alive == 0


def statuses(replies: list[SymbolicReply]) -> list[str]:
    return [reply.status for reply in replies]


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def group_is_gone(group: int, within_s: float = 3.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.timeout(600)
def test_four_thousand_bombs_leave_nothing_stuck_nothing_accepted_and_no_deadline_missed(
    pool: Callable[..., SymbolicPool],
) -> None:
    deadline_s = 1.0
    four = pool(workers=4, deadline_s=deadline_s, recycle_after=5_000)
    pairs = list(bombs(20261124, 4_000))
    first = four.compare(pairs[:60])
    before, worker_pids = resident_bytes(os.getpid()), four.pids
    workers_before = max(map(resident_bytes, worker_pids))
    replies = first + four.compare(pairs[60:])
    count = Counter(statuses(replies))
    assert set(count) <= {"different", "unreadable", "too_heavy", "timeout"}, count
    assert count["too_heavy"] + count["timeout"] >= 150, count
    assert max(reply.wall_s for reply in replies) <= 1.2 * deadline_s
    assert max(reply.held_s for reply in replies) <= 1.2 * deadline_s
    assert four.num_alive == 4
    assert four.pids == worker_pids, "no worker had to be replaced"
    assert resident_bytes(os.getpid()) - before < 2**25
    assert max(map(resident_bytes, worker_pids)) - workers_before < 2**23
    assert statuses(four.compare([RIGHT] * 12)) == ["equal"] * 12


def test_after_sixteen_poisoned_answers_a_hundred_right_ones_are_right(pool: Callable[..., SymbolicPool]) -> None:
    one = pool(workers=1, deadline_s=0.5)
    poisoned = one.compare([(answer, GOLD) for answer in POISON])
    assert {reply.status for reply in poisoned} <= {"too_heavy", "timeout", "unreadable"}
    assert statuses(one.compare([RIGHT] * 100)) == ["equal"] * 100


def test_right_answers_among_poisoned_ones_are_right(pool: Callable[..., SymbolicPool]) -> None:
    two = pool(workers=2, deadline_s=0.5)
    pairs = [RIGHT] * 100
    for place, answer in enumerate(POISON):
        pairs.insert(place * 7, (answer, GOLD))
    replies = two.compare(pairs)
    assert statuses([r for r, pair in zip(replies, pairs, strict=True) if pair == RIGHT]) == ["equal"] * 100
    assert "equal" not in statuses([r for r, pair in zip(replies, pairs, strict=True) if pair != RIGHT])


def test_what_uses_up_its_deadline_or_memory_is_too_heavy(pool: Callable[..., SymbolicPool]) -> None:
    assert statuses(pool(deadline_s=1.0).compare([(TOWER, GOLD)]))[0] in ("too_heavy", "timeout")
    (reply,) = pool(deadline_s=20.0, memory_bytes=2**23).compare([("3^{90000000}", GOLD)])
    assert (reply.status, reply.detail) == ("too_heavy", "out of memory")


def test_a_comparison_without_a_processor_is_a_timeout_not_a_verdict(pool: Callable[..., SymbolicPool]) -> None:
    one = pool(deadline_s=0.4)
    one.compare([RIGHT])
    reply = starved(one)
    assert reply.status == "timeout"
    assert reply.cpu_s < 0.2


def starved(one: SymbolicPool) -> SymbolicReply:
    """The reply to a comparison whose child is stopped as soon as it exists."""
    replies: list[SymbolicReply] = []
    asking = threading.Thread(target=lambda: replies.extend(one.compare([(TOWER, GOLD)])))
    asking.start()
    children = Path(f"/proc/{one.pids[0]}/task/{one.pids[0]}/children")
    until = time.monotonic() + 5.0
    while not (found := children.read_text().split()) and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(int(found[0]), signal.SIGSTOP)
    asking.join()
    return replies[0]


def test_replies_come_in_order_and_from_all_workers(pool: Callable[..., SymbolicPool]) -> None:
    three = pool(workers=3, deadline_s=1.0)
    pairs = [RIGHT if i % 3 else WRONG for i in range(60)]
    assert statuses(three.compare(pairs)) == ["equal" if i % 3 else "different" for i in range(60)]
    started = time.monotonic()
    three.compare([(TOWER, GOLD)] * 3)
    assert time.monotonic() - started < 2.0


def test_a_worker_killed_in_mid_batch_costs_nobody_a_reply(pool: Callable[..., SymbolicPool]) -> None:
    two = pool(workers=2, deadline_s=0.5)
    two.compare([RIGHT])
    victim = two.pids[0]
    killing = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
    killing.start()
    replies = two.compare([(TOWER, GOLD)] * 2 + [RIGHT] * 40)
    killing.join()
    assert statuses(replies[2:]) == ["equal"] * 40
    assert {reply.status for reply in replies[:2]} <= {"too_heavy", "timeout", "failed"}
    assert two.num_alive == 2
    assert victim not in two.pids
    assert group_is_gone(victim), "the child of the killed worker is gone too"


def test_a_worker_killed_between_batches_is_replaced(pool: Callable[..., SymbolicPool]) -> None:
    two = pool(workers=2)
    two.compare([RIGHT])
    os.kill(two.pids[1], signal.SIGKILL)
    assert statuses(two.compare([RIGHT] * 20)) == ["equal"] * 20
    assert two.num_alive == 2


def test_a_worker_that_hangs_is_replaced_and_its_item_tried_again(pool: Callable[..., SymbolicPool]) -> None:
    one = pool(deadline_s=0.5)
    one.compare([RIGHT])
    hung = one.pids[0]
    os.kill(hung, signal.SIGSTOP)
    started = time.monotonic()
    assert statuses(one.compare([RIGHT, WRONG])) == ["equal", "different"]
    assert time.monotonic() - started < 1.2 * 0.5 + GRACE_S + 5.0
    assert one.num_alive == 1
    assert one.pids[0] != hung


def test_workers_are_recycled(pool: Callable[..., SymbolicPool]) -> None:
    one = pool(recycle_after=3)
    one.compare([RIGHT] * 2)
    first = one.pids
    one.compare([RIGHT])
    assert one.pids != first
    assert statuses(one.compare([RIGHT] * 10)) == ["equal"] * 10
    assert group_is_gone(first[0])
    assert one.num_alive == 1


def test_a_pool_that_cannot_start_fails_every_item_and_says_why(
    pool: Callable[..., SymbolicPool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sympy.py").write_text("raise ImportError('No module named sympy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    three = pool(workers=3)
    replies = three.compare([RIGHT] * 50)
    assert statuses(replies) == ["failed"] * 50
    assert "No module named sympy; install sympy" in replies[49].detail
    monkeypatch.delenv("PYTHONPATH")
    assert statuses(three.compare([RIGHT] * 5)) == ["equal"] * 5
    assert three.num_alive == 3


def test_a_pool_without_a_python_to_start_fails_every_item(
    pool: Callable[..., SymbolicPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = pool(workers=2)
    for python, why in (("/nowhere/python", "No such file"), ("/bin/false", "exit code 1")):
        monkeypatch.setattr(sys, "executable", python)
        replies = two.compare([RIGHT] * 3)
        assert statuses(replies) == ["failed"] * 3
        assert why in replies[0].detail


def test_an_interrupted_batch_leaves_no_reply_for_the_next(pool: Callable[..., SymbolicPool]) -> None:
    two = pool(workers=2, deadline_s=2.0)
    two.compare([RIGHT])
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell started us in the background
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            two.compare([(TOWER, GOLD)] * 4)
    finally:
        signal.signal(signal.SIGINT, before)
    assert statuses(two.compare([RIGHT, WRONG] * 5)) == ["equal", "different"] * 5
    assert two.num_alive == 2


def test_threads_share_a_pool(pool: Callable[..., SymbolicPool]) -> None:
    two = pool(workers=2)
    found: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: statuses(two.compare([RIGHT if i % 2 else WRONG] * 8))}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: (["equal"] if i % 2 else ["different"]) * 8 for i in range(4)}


def test_a_worker_sees_no_secrets_and_no_file_of_ours(
    pool: Callable[..., SymbolicPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    one = pool()
    one.compare([RIGHT])
    assert b"sk-secret" not in Path(f"/proc/{one.pids[0]}/environ").read_bytes()
    opened = {os.readlink(fd) for fd in Path(f"/proc/{one.pids[0]}/fd").iterdir()}
    assert {name.partition(":")[0] for name in opened} <= {"pipe", "/dev/null"}


def test_a_pool_starts_on_first_use_and_closes_twice(pool: Callable[..., SymbolicPool]) -> None:
    one = pool()
    assert one.compare([]) == []
    assert one.num_alive == 0
    one.compare([RIGHT])
    (worker,) = one.pids
    one.close()
    one.close()
    assert one.num_alive == 0
    assert group_is_gone(worker)
    with pytest.raises(RuntimeError, match="closed"):
        one.compare([RIGHT])


def test_a_pool_left_open_ends_with_the_interpreter_and_without_a_word() -> None:
    program = (
        "from rewards.pool import SymbolicPool\npool = SymbolicPool(workers=2)\n"
        f"print(pool.compare([{RIGHT!r}])[0].status, *pool.pids)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    status, *workers = done.stdout.split()
    assert (status, len(workers), done.stderr) == ("equal", 2, "")
    assert all(group_is_gone(int(worker)) for worker in workers)


def test_a_pool_whose_owner_is_killed_leaves_no_worker() -> None:
    program = (
        "import os\nfrom rewards.pool import SymbolicPool\npool = SymbolicPool(workers=2)\n"
        f"pool.compare([{RIGHT!r}])\nprint(*pool.pids, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    workers = done.stdout.split()
    assert (done.returncode, len(workers)) == (-signal.SIGKILL, 2)
    assert all(group_is_gone(int(worker)) for worker in workers)


def test_a_forked_copy_neither_uses_nor_ends_the_workers(pool: Callable[..., SymbolicPool]) -> None:
    program = (
        "import os, sys\nfrom rewards.pool import SymbolicPool\npool = SymbolicPool()\n"
        f"pool.compare([{RIGHT!r}])\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        f"        pool.compare([{RIGHT!r}])\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    sys.exit(0)\n"
        "os.wait()\n"
        f"print(pool.compare([{RIGHT!r}])[0].status)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    refusal, status = done.stdout.splitlines()
    assert "made by another process" in refusal
    assert status == "equal"


def test_a_text_that_does_not_fit_the_pipe_is_unreadable(pool: Callable[..., SymbolicPool]) -> None:
    one = pool()
    longest = "\U0001d7d3" * MAX_TEXT_CHARS
    replies = one.compare([(longest, longest), (longest + "1", GOLD), ("\ud800\x00\n", GOLD), RIGHT])
    assert statuses(replies) == ["unreadable"] * 3 + ["equal"]


@pytest.mark.parametrize("settings", [{"workers": 0}, {"deadline_s": 0.0}, {"memory_bytes": 0}, {"recycle_after": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must all be positive"):
        SymbolicPool(**settings)  # type: ignore[arg-type]


def test_importing_the_pool_and_the_rule_stays_light() -> None:
    program = "import sys, rewards.pool, rewards.rules.symbolic\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"sympy", "mpmath", "math_verify", "multiprocessing", "numpy"} == set()
