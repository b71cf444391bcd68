"""The rows of a batch, and what they were made of: the rows of the data, with the token that ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import not_

from gradgate.checks.oracle_steps import Step
from gradgate.checks.raised import calling
from gradgate.checks.row_lines import Again, Row, line_of_places, line_of_row
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Run, Tokens


@dataclass(frozen=True, slots=True)
class Stray:
    """A row of a batch that is no row of the data.

    Args:
        row: b.
        at: how many tokens it begins with as the row of the data does that is most like it.
        token: what it goes on with; None where it ends there.
        source: that row of the data, cut.
        tokens: its own.
    """

    row: int
    at: int
    token: int | None
    source: Row
    tokens: Row

    def __str__(self) -> str:
        """Where it leaves the data."""
        expected = self.source[self.at] if self.at < len(self.source) else None
        there, here = (("ends" if token is None else f"has {token}") for token in (expected, self.token))
        like = f"row {self.row} is like one of {len(self.source)} tokens for {self.at} of them"
        return f"{like}, then {here}, where the data {there}"


def documents(tokens: Tokens) -> Iterator[tuple[int, list[int]]]:
    """Each document's row and the positions of its real tokens; the whole row where rows are not packed."""
    document_BS = tokens.document_BS
    for b, valid_S in enumerate(tokens.valid_BS.tolist()):
        places: dict[int, list[int]] = {}
        for t, real in enumerate(valid_S):
            if real:
                places.setdefault(0 if document_BS is None else int(document_BS[b, t]), []).append(t)
        yield from ((b, document) for document in places.values())


def rows_of(tokens: Tokens) -> Iterator[tuple[int, Row]]:
    """Each document's row and its tokens; the whole row where rows are not packed."""
    return ((b, tuple(tokens.data[b, document].tolist())) for b, document in documents(tokens))


def cut_rows(run: Run, sources: Iterable[Sequence[int]]) -> list[set[Row]]:
    """The rows of the data, cut as the run says: at the end, in front, or where it says nothing a set for each."""
    rows, longest = [tuple(map(int, source)) for source in sources], run.max_length
    ends = {row[:longest] for row in rows}
    if longest is None or run.cuts == "end":
        return [ends]
    fronts = {row[-longest:] for row in rows}
    return [fronts] if run.cuts == "front" else [ends, fronts]


def strays(rows: Iterable[tuple[int, Sequence[int]]], whole: set[Row]) -> Iterator[Stray]:
    """Rows that are not one of the data's.

    Args:
        rows: of a batch: the number b of each, or of each document's, and its tokens.
        whole: the data's, cut as those of the batch are to be.
    """
    for b, tokens in rows:
        row = tuple(map(int, tokens))
        if whole and row not in whole:
            at, source = max((_common(row, other), other) for other in whole)
            yield Stray(b, at, row[at] if at < len(row) else None, source, row)


def _common(one: Row, other: Row) -> int:
    """How many tokens the two begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def of_ends(run: Run, drawn: Sequence[Batch], again: Again, make: Callable[..., Finding]) -> Outcome:
    """Rows, or documents, that do not end with the end token.

    Args:
        run: a live run with an `end_token`.
        drawn: its first batches.
        again: how they come once more.
        make: a finding from all but its code and name.
    """
    ends = [end for batch in drawn for end in _without_end(run, batch)]
    number, allowed = {"documents_without_end": len(ends)}, {"documents_without_end": 0}
    if not ends:
        return Outcome((), number, allowed)
    b, t, row = ends[0]
    finding = make(
        message=f"{len(ends)} rows or documents of {len(drawn)} batches do not end with the end token {run.end_token}: "
        f"the first ends with {row[-1]} at [b, t] = [{b}, {t}]; allowed: 0",
        culprit=line_of_row(again, {row: (*row, int(run.end_token or 0)) for _, _, row in ends}, len(drawn)),
        fix="append the end token where rows are tokenised, before they are cut and padded",
        count=len(ends),
        detail={"index": [b, t], "token": row[-1], "end_token": run.end_token},
    )
    return Outcome((finding,), number, allowed)


def of_sources(run: Run, drawn: Sequence[Batch], again: Again, make: Callable[..., Finding]) -> Outcome:
    """Rows, or documents, that are no row of the data; arguments as for `of_ends`, of a run with `sources`."""
    with calling("sources()"):
        look = partial(_strays, sources=list(run.sources()))
    lost = [look(run, batch) for batch in drawn]
    found = [stray for strays in lost for stray in strays]
    number, allowed = {"rows_not_in_data": len(found)}, {"rows_not_in_data": 0}
    if not found:
        return Outcome((), number, allowed)
    cut = f"{'' if run.max_length is None else f', cut at {run.max_length} tokens'}: {found[0]}"
    place = line_of_row(again, {stray.tokens: stray.source for stray in found}, len(drawn))
    finding = make(
        message=f"{len(found)} rows or documents of {len(drawn)} batches are no row of the data{cut}; allowed: 0",
        culprit=place or line_of_places(again, look, not_, _whole(run, drawn, lost)),
        fix="tokenise the whole text, with what belongs in front and behind, and cut it once, at the longest length",
        count=len(found),
        detail={"row": found[0].row, "position": found[0].at},
    )
    return Outcome((finding,), number, allowed)


def _without_end(run: Run, batch: Batch) -> Iterator[tuple[int, int, Row]]:
    """Row, last position and tokens of each document that is not cut and does not end with the end token."""
    with calling("tokens()"):
        tokens = run.tokens(batch)
    for b, document in documents(tokens):
        row = tuple(tokens.data[b, document].tolist())
        if row[-1] != run.end_token and (run.max_length is None or len(document) < run.max_length):
            yield b, document[-1], row


def _strays(run: Run, batch: Batch, sources: Sequence[Sequence[int]]) -> list[Stray]:
    with calling("tokens()"):
        tokens = run.tokens(batch)
    first, *others = [list(strays(rows_of(tokens), whole)) for whole in cut_rows(run, sources)]
    return first if all(others) else []


def _whole(run: Run, drawn: Sequence[Batch], lost: Sequence[Sequence[Stray]]) -> dict[int, list[Step]]:
    """What would be real if each row that is a row of the data but for its length were that row, by batch."""
    steps = {}
    for number, (batch, strays) in enumerate(zip(drawn, lost, strict=True)):
        tokens = run.tokens(batch)
        if tokens.document_BS is not None or not strays:
            continue
        valid_BS = tokens.valid_BS.bool().clone()
        for stray in strays:
            valid_BS[stray.row, : len(stray.source)] = True
            valid_BS[stray.row, len(stray.source) :] = False
        steps[number] = [Step("real tokens", valid_BS), Step("lengths", valid_BS.sum(1))]
    return steps
