"""The desk hands out faults, and holds what noticed one against the unedited source: at once, and once."""

from __future__ import annotations

from gradgate.core.workers import Lost
from gradgate.faults.desk import Desk
from gradgate.faults.worker import Notice, Report


def noticed(*codes: str) -> Report:
    return Report(notices=[Notice(code, None, "off", "none") for code in codes], built=True)


def test_faults_come_in_their_order_and_one_that_nothing_noticed_is_known_at_once():
    """So is one whose process was lost."""
    desk = Desk(2)
    assert (desk.next(), desk.next(), desk.next()) == (0, 1, None)
    assert (desk.add(1, noticed()), desk.add(0, Lost("hung"))) == ([1], [0])
    assert not desk.is_open()


def test_what_noticed_is_asked_before_the_next_fault_and_once():
    """A second fault that the same check notices waits for the same answer; both are known with it."""
    desk = Desk(3)
    desk.next(), desk.next()
    assert desk.add(0, noticed("GG404", "GG401")) == []
    assert desk.next() == ("GG401", "GG404")
    assert desk.add(1, noticed("GG404")) == []
    assert desk.next() == 2
    assert desk.settle(("GG401", "GG404"), ()) == [0, 1]
    assert desk.add(2, noticed("GG401")) == [2]
    assert not desk.is_open()


def test_fault_that_a_red_check_noticed_is_left_again():
    """Whether the check was known to be red before or behind its report."""
    desk = Desk(2)
    desk.next(), desk.next()
    desk.add(0, noticed("GG404"))
    assert desk.next() == ("GG404",)
    assert desk.settle(("GG404",), {"GG404"}) == []
    assert desk.add(1, noticed("GG404")) == []
    assert (desk.red, desk.next(), desk.next()) == ({"GG404"}, 0, 1)
    assert desk.add(0, noticed()) == [0]
