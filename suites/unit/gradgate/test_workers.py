"""Worker processes answer every item; what hangs or dies is an answer, with the line where it was."""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from gradgate.core import workers
from gradgate.core.workers import Lost, run, usable_cores

pytestmark = pytest.mark.skipif(not usable_cores(), reason="processes are forked on Linux")


@pytest.fixture(autouse=True)
def without_leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No run, however it ends, leaves a process behind."""
    monkeypatch.setattr(workers, "_GRACE", 0.3)
    yield
    assert not multiprocessing.active_children()


def answers(groups: Sequence[Sequence[Any]], function: Any, **options: Any) -> dict[int, Any]:
    return dict(run(groups, function, **{"jobs": 2, "timeout": 60.0, **options}))


def _who(item: Any) -> tuple[Any, int]:
    return item, os.getpid()


def test_every_item_is_answered_under_its_number():
    """Numbers count through the groups, and a group of nothing has none."""
    found = answers([["a", "b"], [], ["c"], ["d", "e"]], _who)
    assert {number: item for number, (item, _) in found.items()} == dict(enumerate("abcde"))


def test_items_of_a_group_share_a_process_and_groups_take_turns():
    """One process answers a group; there are no more processes than jobs; none is this one."""
    found = answers([["a", "b", "c"], ["d"], ["e"], ["f"]], _who)
    assert len({found[number][1] for number in (0, 1, 2)}) == 1
    assert len({process for _, process in found.values()} - {os.getpid()}) == len(
        {process for _, process in found.values()}
    )
    assert len({process for _, process in found.values()}) <= 2


def test_each_group_has_a_fresh_process_when_asked_for():
    """What one group leaves behind in a process meets no other."""
    found = answers([["a"], ["b"], ["c"]], _who, fresh=True)
    assert len({process for _, process in found.values()}) == 3


def _ends(item: str) -> str:
    if item == "segfault":
        ctypes.string_at(0)
    if item == "exit":
        os._exit(3)
    if item == "hang":
        sum(itertools.repeat(0))  # in C, where no signal of Python's comes through
    return item


@pytest.mark.parametrize(
    ("item", "reason", "line"),
    [
        ("segfault", "crashed (SIGSEGV)", "in string_at"),
        ("exit", "crashed (exit 3)", ""),
        ("hang", "hung", "in _ends"),
    ],
)
def test_lost_item_is_an_answer_and_the_rest_of_its_group_goes_on(item: str, reason: str, line: str):
    """The reason says how the process ended, its stack where, and the items behind it are answered by another."""
    found = answers([["first", item, "next"], ["other"]], _ends, timeout=1.0)
    assert [found[number] for number in (0, 2, 3)] == ["first", "next", "other"]
    assert isinstance(found[1], Lost)
    assert found[1].reason == reason
    assert line in found[1].stack


def test_run_that_is_left_ends_its_processes():
    """An abandoned run ends what it started, in the middle of an item."""
    running = run([["first"], ["hang"]], _ends, jobs=2, timeout=60.0)
    assert next(running) == (0, "first")
    running.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_ctrl_c_is_for_the_one_who_started_the_workers():
    """A worker does not hear it: whoever started it tells what is known and ends it."""
    assert answers([[None]], lambda _: signal.getsignal(signal.SIGINT)) == {0: signal.SIG_IGN}


def test_ctrl_c_while_a_worker_is_started_ends_it(monkeypatch: pytest.MonkeyPatch):
    """It is held back until the process is there, which is known to nobody yet."""
    held_back = workers._uninterrupted

    @contextmanager
    def interrupted() -> Iterator[None]:
        with held_back():
            yield
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(workers, "_uninterrupted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answers([["a"]], _who)
    assert not multiprocessing.active_children()


def test_items_are_announced_as_they_begin():
    """Progress is told in the process that asked."""
    begun: list[str] = []
    answers([["a", "b"], ["c"]], _who, on_start=begun.append, jobs=1)
    assert begun == ["a", "b", "c"]


def test_answers_decide_what_is_asked_next():
    """The next group is asked for when there is a worker for it, and no earlier."""
    known: list[str] = []

    def following() -> Iterator[list[str]]:
        yield ["first"]
        yield ["other"]
        yield [f"after {' and '.join(known)}"]

    for _, (item, _) in run(following(), _who, jobs=1, timeout=60.0, fresh=True):  # type: ignore[misc]
        known.append(item)
    assert known == ["first", "other", "after first and other"]


def test_time_may_depend_on_the_item():
    """What is known to take longer has longer."""
    found = answers([["hang"], ["first"]], _ends, timeout=lambda item: 1.0 if item == "hang" else 60.0)
    assert (found[0].reason, found[1]) == ("hung", "first")
