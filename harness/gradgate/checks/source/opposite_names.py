"""Names of a trainer's source that say the opposite of each other, for the checks that hold them against each other."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from itertools import permutations

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import last_name, outwards, parents_in

WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
PREDICTED = (
    re.compile(r"preds?|predict(ed|ions?)|estimat(es?|ed|ion)|outputs?|logits?|values?|hats?|guess(es)?|forecasts?"),
    re.compile(r"targets?|labels?|returns?|truths?|true|gold|actuals?|groundtruths?"),
)
PREFERRED = (
    re.compile(r"chosen|good|positives?|pos|winn(er|ing)s?|preferred|correct|better|accepted"),
    re.compile(r"rejected|bad|negatives?|neg|los(er|ing)s?|dispreferred|incorrect|wrong|worse|refused"),
)
TAUGHT = (re.compile(r"students?"), re.compile(r"teachers?"))
TRAINED = (re.compile(r"policy|actor"), re.compile(r"ref|references?"))
PAIRS = (PREDICTED, PREFERRED, TAUGHT, TRAINED)
OF_LIBRARIES = {
    **dict.fromkeys(
        ("explained_variance_score", "r2_score", "precision_score", "recall_score", "average_precision_score"),
        ("y_true", "y_pred"),
    ),
    **dict.fromkeys(("roc_auc_score", "mean_absolute_percentage_error", "log_loss"), ("y_true", "y_pred")),
    **dict.fromkeys(
        ("cross_entropy", "nll_loss", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
        ("predicted", "target"),
    ),
}
JOINS = ("cat", "stack", "concatenate", "concat", "hstack", "tensor", "as_tensor", "array", "asarray", "float", "list")


@functools.lru_cache(maxsize=4096)
def side(name: str, pair: tuple[re.Pattern[str], re.Pattern[str]]) -> int | None:
    """Which of two opposites a name says; None: neither, or both."""
    words = [word.lower() for word in WORDS.findall(name)]
    said = [any(kind.fullmatch(word) for word in words) for kind in pair]
    return said.index(True) if sum(said) == 1 else None


def named(value: ast.expr, place: Place) -> str:
    """What a value is called, without what puts it together, cuts it or moves it."""
    while True:
        if isinstance(value, ast.Subscript) and not isinstance(value.slice, ast.Constant):
            value = value.value
        elif isinstance(value, ast.Call) and called_name(value) in JOINS and value.args:
            value = value.args[0]
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and not _takes_more(value):
            value = value.func.value
        else:
            break
    name = last_name(value)
    silent = isinstance(value, ast.Name) and all(side(name, pair) is None for pair in PAIRS)
    held = place.names.held(value) if silent else value
    return name if held is value else named(held, place)


def _takes_more(call: ast.Call) -> bool:
    """Whether a call makes something of more than what it is a method of."""
    return any(isinstance(part, ast.Name) for each in call.args for part in ast.walk(each))


def changed_places(call: ast.Call, place: Place, own: Places) -> Iterator[tuple[str, str, str, str]]:
    """The arguments of a call that are given what is called the opposite, with the names that they are given."""
    called = own.called(call, place)
    if any(isinstance(each, ast.Starred) for each in call.args):
        return
    if called is not None:
        given = {} if called.does_nothing else called.given(call)
    else:
        parameters = OF_LIBRARIES.get(called_name(call), ()) if not own.named(called_name(call)) else ()
        given = dict(zip(parameters, call.args, strict=False))
        given |= {word.arg: word.value for word in call.keywords if word.arg and word.arg in parameters}
    for one, other in permutations(given, 2):
        for pair in PAIRS:
            if [side(one, pair), side(other, pair)] != [0, 1]:
                continue
            names = [named(given[each], place) for each in (one, other)]
            if [side(name, pair) for name in names] == [1, 0] and not (
                pair is PREDICTED and _is_even(called, one, other)
            ):
                yield one, names[0], other, names[1]


def _is_even(called: Place | None, one: str, other: str) -> bool:
    """Whether a function does the same to both of its arguments, but for a difference of the two."""
    if called is None:
        return False
    parents = parents_in(called.function)
    uses: dict[str, list[str]] = {one: [], other: []}
    for node in called.nodes:
        if isinstance(node, ast.Name) and node.id in uses:
            around = next(outwards(node, parents))
            if isinstance(around, ast.BinOp) and {one, other} <= {dotted(each) for each in (around.left, around.right)}:
                continue
            text = ast.unparse(around)
            uses[node.id].append(re.sub(rf"\b({re.escape(one)}|{re.escape(other)})\b", "_", text))
    return sorted(uses[one]) == sorted(uses[other])
