"""The usual faults of the formulas, each with what a formula does that has it, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradgate.checks import deviations
from gradgate.checks.deviations import Chosen, Numbers
from gradgate.checks.oracles import IGNORED


@dataclass(frozen=True)
class Deviation:
    """One usual fault of a formula.

    Args:
        name: by which it is switched on.
        told: what the formula does then, behind "the returns" or the like.
        fix: what to write instead.
        kind: of several of one kind one alone can be; empty: it goes with all others.
    """

    name: str
    told: str
    fix: str
    kind: str = ""


@dataclass(frozen=True)
class Deviations:
    """The usual faults of a formula.

    Args:
        subject: the formula's numbers, as messages name them.
        known: the faults.
        compute: what it gives of arguments and options with some of them.
        places: which of its numbers are compared, of the arguments.
    """

    subject: str
    known: tuple[Deviation, ...]
    compute: Callable[[Mapping[str, Any], Mapping[str, Any], Chosen], Numbers]
    places: Callable[[Mapping[str, Any]], Tensor | None]


_TO_ITS_END = "end the recursion behind the last real token of each document"
_DIVISOR = "divide by the number of positions with a valid head"
_TOKENS = "divide by the number of real tokens"

DEVIATIONS: Mapping[str, Deviations] = {
    "returns": Deviations(
        "the returns",
        (
            Deviation(
                "value of padding",
                "bootstrap from the value of the padding behind a row's last real token",
                _TO_ITS_END,
            ),
            Deviation(
                "value of the next document",
                "bootstrap from the first value of the next packed document",
                _TO_ITS_END,
                "end",
            ),
            Deviation(
                "end one early",
                "end the bootstrap one token early, and bootstrap from what follows the last token",
                "take the mask of ends at the token itself, not at the next one",
                "end",
            ),
            Deviation(
                "advantage of the next document", "carry the advantage of the next packed document on", _TO_ITS_END
            ),
            Deviation(
                "first value of the row",
                "bootstrap from the first value of the row behind its last column",
                "no value follows the last column: `roll` brings the first one there",
            ),
            Deviation("advantages", "are the advantages: the values are not added", "add the values to the advantages"),
            Deviation(
                "swapped", "take gamma for lambda and lambda for gamma", "hand them on in the other order", "gamma"
            ),
            Deviation("no gamma", "take gamma for 1", "discount by gamma", "gamma"),
            Deviation("no lambda", "take lambda for 1", "decay the TD errors by gamma * lambda", "gamma"),
            Deviation(
                "decayed by lambda", "decay the TD errors by lambda alone", "decay them by gamma * lambda", "gamma"
            ),
            Deviation(
                "value undiscounted", "leave gamma out of the bootstrap", "take gamma times the next value", "gamma"
            ),
        ),
        deviations.returns,
        lambda arguments: arguments["valid_BS"],
    ),
    "weights": Deviations(
        "the head weights",
        (
            Deviation(
                "one token early",
                "give head k the delta of token t + k",
                "give head k that of token t + k + 1",
                "shift",
            ),
            Deviation(
                "one token late",
                "give head k the delta of token t + k + 2",
                "give head k that of token t + k + 1",
                "shift",
            ),
            Deviation(
                "over all heads",
                "are a softmax over all heads, of which the invalid ones are left out behind it",
                "mask invalid heads in front of the softmax",
                "all",
            ),
            Deviation(
                "filled with 0",
                "give invalid heads the score 0 in the softmax, and leave them out behind it",
                "mask invalid heads in front of the softmax",
                "all",
            ),
            Deviation(
                "clamped",
                "are a softmax over all heads, those beyond the row with its last delta, of which the invalid ones "
                "are left out behind it",
                "mask invalid heads in front of the softmax",
                "all",
            ),
            Deviation("no temperature", "take the temperature for 1", "divide by the temperature", "temperature"),
            Deviation("times temperature", "multiply by the temperature", "divide by the temperature", "temperature"),
            Deviation("no lambda", "take lambda for 1", "subtract lambda times the previous value", "lambda"),
            Deviation(
                "no previous value",
                "take the values, not their increments",
                "subtract lambda times the previous value",
                "lambda",
            ),
            Deviation(
                "previous value at padding",
                "subtract the value of the padding in front of a row's first real token",
                "begin each document with the value 0 before it",
            ),
            Deviation(
                "previous document's value",
                "subtract the last value of the previous packed document",
                "begin each document with the value 0 before it",
            ),
            Deviation(
                "last value of the row",
                "subtract the row's last value from its first",
                "the value before the first column is 0: `roll` brings the last one there",
            ),
            Deviation(
                "first is 0", "take 0 for the delta of a first token", "take its value: the value before it is 0"
            ),
            Deviation(
                "negated", "prefer the head whose delta is smallest", "take the softmax of the deltas themselves"
            ),
        ),
        deviations.weights,
        lambda arguments: arguments["label_BSH"] != IGNORED,
    ),
    "loss": Deviations(
        "the loss",
        (
            Deviation(
                "positions of the first head",
                "is divided by the positions at which the first head is valid",
                _DIVISOR,
                "divisor",
            ),
            Deviation("all positions", "is divided by all positions, padding among them", _DIVISOR, "divisor"),
            Deviation("all labels", "is divided by the number of labels", _DIVISOR, "divisor"),
            Deviation("all heads of all positions", "is divided by all heads of all positions", _DIVISOR, "divisor"),
            Deviation("rows", "is divided by the number of rows", _DIVISOR, "divisor"),
            Deviation("sum", "is a sum", _DIVISOR, "divisor"),
            Deviation("mean of rows", "is a mean of the rows' means", _DIVISOR, "divisor"),
            Deviation("no weights", "leaves the weights out", "multiply each head's cross-entropy by its weight"),
        ),
        deviations.loss,
        lambda _: None,
    ),
    "value_loss": Deviations(
        "the value loss",
        (
            Deviation("all positions", "is divided by all positions, padding among them", _TOKENS, "divisor"),
            Deviation("rows", "is divided by the number of rows", _TOKENS, "divisor"),
            Deviation("sum", "is a sum", _TOKENS, "divisor"),
            Deviation("mean of rows", "is a mean of the rows' means", _TOKENS, "divisor"),
            Deviation("half", "has a factor of one half", "leave the factor out"),
        ),
        deviations.value_loss,
        lambda _: None,
    ),
    "labels": Deviations(
        "the labels",
        (
            Deviation("one token early", "are the tokens at t + k", "take the token at t + k + 1", "shift"),
            Deviation("one token late", "are the tokens at t + k + 2", "take the token at t + k + 1", "shift"),
            Deviation(
                "last link alone",
                "ask for one document between t + k and t + k + 1 alone",
                "compare t with t + k + 1",
                "documents",
            ),
            Deviation(
                "first link alone",
                "ask for one document between t and t + 1 alone",
                "compare t with t + k + 1",
                "documents",
            ),
            Deviation(
                "documents",
                "run into the next packed document",
                "compare the documents of t and t + k + 1",
                "documents",
            ),
            Deviation(
                "beginning of the row",
                "are taken from the row's beginning behind its end",
                "no token follows the last column: `roll` brings the first ones there",
            ),
            Deviation("from padding", "are given at padding", "leave out positions that are padding"),
            Deviation("at padding", "are taken from padding", "leave out targets that are padding"),
        ),
        deviations.labels,
        lambda _: None,
    ),
    "place_rewards": Deviations(
        "the rewards",
        (
            Deviation(
                "by length",
                "begin at column 0, as if no padding were in front of a row",
                "begin at the first place at which the mask is set",
                "place",
            ),
            Deviation(
                "last by length",
                "stand where a row's length says, as if no padding were in front of it",
                "take the last place at which the mask is set",
                "place",
            ),
            Deviation(
                "last column", "stand in the last column", "take the last place at which the mask is set", "place"
            ),
            Deviation(
                "first token", "stand on the first token", "take the last place at which the mask is set", "place"
            ),
            Deviation("documents", "are placed once a row, whatever its documents", "place one in each document"),
            Deviation(
                "width", "are divided by the width of the row", "divide by the number of its real tokens", "share"
            ),
            Deviation(
                "whole on each", "stand as a whole on each token", "divide by the number of its real tokens", "share"
            ),
        ),
        deviations.placed,
        lambda _: None,
    ),
}
