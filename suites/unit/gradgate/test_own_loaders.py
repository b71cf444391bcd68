"""OwnLoop.begin(loader_class=...): the loader that a loop makes stays its own, and stops the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, WeightedRandomSampler

from gradgate.core.errors import SubjectError
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Run
from gradgate.subjects.own_loop import OwnLoop

ROWS = [torch.full((3,), float(number)) for number in range(6)]


class Loader:
    """A trainer's loader: an order for each epoch, and a place to start in the first.

    Args:
        dataset: rows.
    """

    def __init__(self, dataset: Sequence[Tensor], start: int = 0) -> None:
        self.dataset, self.start, self.epoch = dataset, start, 0
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.told.append(epoch)

    def __len__(self) -> int:
        return len(self.dataset) // 2

    def __iter__(self) -> Iterator[Tensor]:
        turned = [*self.dataset[self.epoch :], *self.dataset[: self.epoch]]
        for number in range(self.start, len(self)):
            yield torch.stack(turned[2 * number : 2 * number + 2])
        self.start = 0


class Keyed(Loader):
    """Its instances are iterators."""

    __slots__ = ("place",)

    def __init__(self, dataset: Sequence[Tensor]) -> None:
        super().__init__(dataset)
        self.place = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self.place += 1
        return self.dataset[self.place % len(self.dataset)][None]


def train(kind: Any = Loader, epoch: int | None = None, **options: Any) -> None:
    """A loop that makes two loaders: one to train on, one to look at after each step."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader, evaluated = kind(ROWS, **options), kind(ROWS[:2])
    if epoch is not None:
        loader.set_epoch(epoch)
    batch = next(loader) if kind is Keyed else None
    for batch in loader:
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen = [] if kind is Keyed else [len(part) for part in evaluated]
    del batch, seen


class LoaderRun(OwnLoop):
    """The loop with a loader of its own."""

    terms: ClassVar[dict[str, str]] = {"value_loss": "loss"}

    def __init__(self, kind: Any = Loader, *, known_as: Any = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.begin(lambda _: train(kind, **options), loader_class=known_as or kind)
        self.modules, self.optimizers = {"model": self.local("model")}, [self.local("optimizer")]

    def samples(self, batch: Tensor) -> Sequence[float]:
        return batch[:, 0].tolist()


def firsts(run: Run, count: int) -> list[list[float]]:
    return [batch[:, 0].tolist() for batch in islice(run.batches(), count)]


def test_a_loader_of_the_loops_own_stays_what_it_is() -> None:
    """Length, attributes and class are its own; a step takes the batch that it is given."""
    run = LoaderRun(start=1)
    loader = run.local("loader")
    assert (len(loader), loader.start, loader.dataset is ROWS, isinstance(loader, Loader)) == (3, 1, True, True)
    assert (type(loader).__name__, type(loader).__module__) == ("Loader", __name__)
    before = run.modules["model"].weight.detach().clone()  # type: ignore[operator]
    assert run.step(torch.zeros(1, 3))["value_loss"] > 0 and run.local("seen") == [2]
    assert torch.equal(run.modules["model"].weight, before)  # type: ignore[arg-type]


def test_loaders_behind_the_first_and_the_class_are_left_as_they_are() -> None:
    """The class has neither another `__init__` nor another `__iter__` when the loop has begun."""
    before = dict(vars(Loader))
    run = LoaderRun()
    assert type(run.local("evaluated")) is Loader
    assert dict(vars(Loader)) == before


def test_the_class_is_what_it_was_where_the_loop_makes_none() -> None:
    """Neither a loop that ends, nor one that raises, leaves a trace."""
    before = dict(vars(Loader))
    for loop, error in ((lambda _: None, SubjectError), (lambda _: 1 // 0, ZeroDivisionError)):
        with pytest.raises(error):
            OwnLoop().begin(loop, loader_class=Loader)
    assert dict(vars(Loader)) == before


def test_runs_side_by_side_draw_and_step_apart() -> None:
    """Two runs in one process, a batch each in turn, end where one alone ends."""
    alone, *both = (LoaderRun() for _ in range(3))
    for batch in islice(alone.batches(), 4):
        alone.step(batch)
    for pair in islice(zip(*(run.batches() for run in both), strict=True), 4):
        for run, batch in zip(both, pair, strict=True):
            run.step(batch)
    weights = [run.modules["model"].weight for run in (alone, *both)]
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])  # type: ignore[arg-type]


def test_a_run_that_begins_inside_the_loop_of_another_takes_its_own_loader() -> None:
    """Each loop's first instance is its own, in whatever order they are made."""
    inner: list[LoaderRun] = []

    class Outer(LoaderRun):
        def __init__(self) -> None:
            self.begin(lambda _: (inner.append(LoaderRun(start=1)), train()), loader_class=Loader)

    before, outer = dict(vars(Loader)), Outer()
    assert (firsts(inner[0], 1), firsts(outer, 1)) == ([[2.0, 3.0]], [[0.0, 1.0]])
    assert dict(vars(Loader)) == before


def test_batches_are_what_the_loader_yields_epoch_after_epoch() -> None:
    """`set_epoch` is called before each, and the second drawing begins as the first."""
    run = LoaderRun()
    assert firsts(run, 5) == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [1.0, 2.0], [3.0, 4.0]]
    assert run.local("loader").told == [0, 1]
    assert firsts(run, 1) == [[0.0, 1.0]]


class Turning:
    """A sampler whose order is another one in each epoch that it is told."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([*range(self.epoch, len(ROWS)), *range(self.epoch)])

    def __len__(self) -> int:
        return len(ROWS)


@pytest.mark.parametrize(("tells", "second"), [(True, 1.0), (False, 0.0)])
def test_a_sampler_is_told_its_epoch_where_the_loop_tells_it(tells: bool, second: float) -> None:
    """One that the trainer forgets stays where it is, and its epochs have one order."""

    class SampledRun(LoaderRun):
        def __init__(self) -> None:
            self.begin(lambda _: sampled(), loader_class=DataLoader)

    def sampled() -> None:
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        sampler = Turning()
        loader = DataLoader(list(ROWS), batch_size=len(ROWS), sampler=sampler)
        for epoch in range(3):
            if tells:
                sampler.set_epoch(epoch)
            for batch in loader:
                loss = model(batch).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    drawn = firsts(SampledRun(), 2)
    assert [drawn[0][0], drawn[1][0]] == [0.0, second]


def test_batches_begin_with_the_epoch_and_the_place_of_the_loop() -> None:
    """A loop that goes on in its third epoch has told its loader so."""
    run = LoaderRun(start=2, epoch=2)
    assert firsts(run, 2) == [[0.0, 1.0], [3.0, 4.0]]
    assert run.local("loader").told == [2, 3]


@pytest.mark.parametrize("known_as", [Keyed, Loader])
def test_a_loader_that_is_its_own_iterator_stops_the_loop(known_as: type) -> None:
    """`next(loader)` asks, too; a class below the one that is named is an instance of it."""
    run = LoaderRun(Keyed, known_as=known_as)
    run.step(ROWS[1][None])
    assert run.step(ROWS[1][None])["value_loss"] > 0
    assert firsts(run, 2) == [[1.0], [2.0]]


def test_batches_of_an_adapter_come_first() -> None:
    """Written in the class, or in one behind OwnLoop; the epoch's size is not the loader's then."""

    class Rows(Run):
        def batches(self) -> Iterator[Tensor]:
            yield torch.ones(1, 3)

    class Written(LoaderRun):
        def batches(self) -> Iterator[Tensor]:
            return (-batch for batch in super().batches())

    class Behind(LoaderRun, Rows):
        pass

    assert firsts(Written(), 1) == [[-0.0, -1.0]] and firsts(Behind(), 1) == [[1.0]]
    assert Written().epoch_size == 0


def test_an_epoch_without_a_batch_is_an_error() -> None:
    """Epoch after epoch of nothing would be looked through for ever."""
    run = LoaderRun()
    run.local("loader").dataset = []
    with pytest.raises(SubjectError, match="Loader yields no batch in epoch 0"):
        next(run.batches())


def loaded(**options: Any) -> type[DataLoader[Tensor]]:
    """A torch loader with these options, and its own of whatever else is asked."""

    class Own(DataLoader[Tensor]):
        def __init__(self, rows: Any) -> None:
            super().__init__(rows, **options)

    return Own


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"batch_size": 4}, 6),
        ({"batch_size": 4, "drop_last": True}, 0),
        ({"batch_size": 4, "sampler": SubsetRandomSampler([1, 2])}, 0),
        ({"batch_size": 4, "sampler": WeightedRandomSampler([1.0] * 6, 6)}, 0),
        ({"batch_sampler": [[0, 1]]}, 0),
    ],
)
def test_the_size_of_an_epoch_is_told_only_where_each_row_comes_once(options: Any, size: int) -> None:
    """`samples` is a capability where the dataset has a length and the loader neither drops, picks nor repeats rows."""
    run = LoaderRun(loaded(**options), known_as=DataLoader)
    assert run.epoch_size == size
    assert ("samples" in declared(run)) == (size > 0)


def test_a_torch_loader_is_drawn_from() -> None:
    """The class may be torch's own."""
    assert firsts(LoaderRun(loaded(batch_size=4), known_as=DataLoader), 3) == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3]]


def test_begin_says_what_it_cannot_do_with_a_class() -> None:
    """No instance is made, another way is given too, nothing iterates over it."""
    run = OwnLoop()
    for loop in (lambda _: None, lambda lent: [None for _ in lent]):
        with pytest.raises(SubjectError, match="made no Loader while it began: let `loop` make the trainer"):
            run.begin(loop, loader_class=Loader)
    with pytest.raises(SubjectError, match="`loader_in` lends the loop a loader, `loader_class` leaves it its own"):
        run.begin(list, loader_in=torch, loader_class=Loader)
    with pytest.raises(SubjectError, match="Tensorless has no `__iter__`"):
        run.begin(list, loader_class=type("Tensorless", (), {}))
