"""The line that lets a sample be twice, held out and trained, or lost: the first list that repairs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradgate.checks.sample_lines import line_of_lost, line_of_repeats, line_of_shared
from gradgate.core.finding import Location

SOURCE = Path(__file__).parent
Row = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    token: Row


@dataclass(frozen=True)
class Data:
    train: tuple[Sample, ...]
    heldout: tuple[Sample, ...]


def texts() -> list[Row]:
    return [(number, number + 1) for number in range(9)]


def split(samples: list[Sample], train: list[Sample]) -> Data:
    return Data(tuple(train), tuple(samples[6:]))


def packed(samples: list[Sample]) -> list[list[Sample]]:
    packs: list[list[Sample]] = []
    for sample in samples:
        if packs and len(packs[-1]) < 2:
            packs[-1].append(sample)
        else:
            packs.append([sample])
    return packs


def right() -> Data:
    samples = [Sample(text) for text in texts()]
    train = samples[:6]
    return split(samples, train)


def twice() -> Data:
    samples = [Sample(text) for text in texts()]
    train = samples[:6]
    return split(samples, train + train[:2])


def trained_on_all() -> Data:
    samples = [Sample(text) for text in texts()]
    train = list(samples)
    return split(samples, train)


def overwritten() -> Data:
    samples = [Sample(text) for text in texts()]
    packs = packed(samples[:6])
    packs[1][-1] = packs[0][-1]
    train = [sample for pack in packs for sample in pack]
    return split(samples, train)


def left_out() -> Data:
    samples = [Sample(text) for text in texts()]
    train = [sample for sample in samples[:6] if sample.token[0] != 3]
    return split(samples, train)


def repeats(data: Data) -> bool:
    return len(set(data.train)) == len(data.train) == 6


def apart(data: Data) -> bool:
    return bool(data.train) and len(data.heldout) == 3 and not set(data.train) & set(data.heldout)


def whole(data: Data) -> bool:
    return {sample.token for sample in data.train} >= set(texts()[:6])


def told(place: Location | None) -> tuple[str, str]:
    assert place is not None
    return Path(place.file).name, place.source


def test_list_that_has_a_sample_twice_is_named() -> None:
    """The line of the argument, which has no name before."""
    place = line_of_repeats(SOURCE, twice, repeats)

    assert told(place) == ("test_sample_lines.py", "return split(samples, train + train[:2])")


def test_list_that_holds_what_another_holds_out_is_named() -> None:
    """Not the list of all samples, without which nothing would be held out."""
    place = line_of_shared(SOURCE, trained_on_all, apart, 3)

    assert told(place)[1] == "train = list(samples)"


def test_write_that_takes_a_sample_out_of_a_list_is_named() -> None:
    """What stood there is in no list any more."""
    place = line_of_lost(SOURCE, overwritten, whole, [(3, 4)])

    assert told(place)[1] == "packs[1][-1] = packs[0][-1]"


def test_list_that_lacks_a_sample_is_named() -> None:
    """The filter, which nothing was taken out of."""
    place = line_of_lost(SOURCE, left_out, whole, [(3, 4)])

    assert told(place)[1].startswith("train = [")


def never(_data: Data) -> bool:
    return False


def test_no_line_is_named_where_no_other_list_repairs() -> None:
    """Whatever the samples are wrong by is in no list."""
    searches: list[Callable[[], Location | None]] = [
        lambda: line_of_repeats(SOURCE, twice, never),
        lambda: line_of_shared(SOURCE, trained_on_all, never, 3),
        lambda: line_of_lost(SOURCE, overwritten, never, [(3, 4)]),
    ]

    assert [search() for search in searches] == [None] * 3


def test_no_line_is_named_on_the_clean_twin() -> None:
    """Its lists hold each sample once, and those held out apart."""
    assert line_of_repeats(SOURCE, right, repeats) is None
    assert line_of_lost(SOURCE, right, whole, []) is None
