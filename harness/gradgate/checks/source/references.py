"""What a trainer's source calls a reference, and what such a copy is taken of, for the checks of references."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import dotted, given_by

KINDS = {"ref": "reference", "reference": "reference", "teacher": "teacher"}  # whatever else stands in the name
OF_A_MODEL = {"frozen", "anchor", "initial", "baseline", "old", "target"}  # beside a word for a model
MODELS = {"model", "net", "network", "policy", "lm", "actor", "critic", "q", "qnet", "copy", "encoder", "trunk"}
NO_MODEL = {
    *("path", "file", "dir", "ckpt", "checkpoint", "config", "cfg", "name", "free", "forcing", "id", "ids"),
    *("logits", "logps", "logprobs", "logp", "logprob", "probs", "prob", "loss", "ce", "kl", "reward", "rewards"),
    *("score", "scores", "output", "outputs", "out", "text", "texts", "values", "value", "count", "step", "needs"),
}
ALL = frozenset({*KINDS.values(), *OF_A_MODEL})
UNWRAPS = re.compile(r"(^|\.)_?(unwrap|get_model|raw_model)\w*$")
PASSED_ON = {"to", "eval", "train", "requires_grad_", "half", "float", "bfloat16", "cuda", "cpu", "double"}
COPIES = re.compile(r"(^|\.)deepcopy$")


def kinds_of(name: str) -> frozenset[str]:
    """What kinds of reference a name, or the last part of a dotted one, says: none where it names something else."""
    words = set(name.rpartition(".")[2].lower().split("_"))
    if words & NO_MODEL:
        return frozenset()
    beside = words & OF_A_MODEL if words & MODELS else set()
    return frozenset({KINDS[word] for word in words & set(KINDS)} | beside)


def chain_of(value: ast.expr) -> tuple[ast.expr, list[ast.Call]]:
    """What stands first in `copy(model).to(device).eval()`, and the methods that are called of it."""
    methods: list[ast.Call] = []
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in PASSED_ON:
        methods.append(value)
        value = value.func.value
    return value, methods


def model_named(node: ast.expr) -> str:
    """The model that an expression is: `model` of `unwrap(model)` and of `model.module`."""
    if isinstance(node, ast.Call) and node.args and UNWRAPS.search(dotted(node.func)):
        return model_named(node.args[0])
    return dotted(node).removesuffix(".module")


def copied_in(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.expr]]:
    """The copies of a model that are made somewhere, each with that model."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and COPIES.search(dotted(node.func)) and model_named(node.args[0]):
            yield node, node.args[0]


def copy_key(call: ast.Call) -> frozenset[str]:
    """What kind of reference a copy of a model is that nothing else names one: itself."""
    is_copy = bool(call.args) and bool(COPIES.search(dotted(call.func))) and bool(model_named(call.args[0]))
    return frozenset({f"copy {call.lineno}:{call.col_offset} {id(call)}"}) if is_copy else frozenset()


def puts_in_eval(call: ast.Call) -> bool:
    """Whether a call is `.eval()` or `.train(False)`."""
    if not isinstance(call.func, ast.Attribute):
        return False
    given = given_by(call)
    off = any(isinstance(each, ast.Constant) and each.value is False for each in given)
    return (call.func.attr == "eval" and not given) or (call.func.attr == "train" and off)


def meant(own: Places, call: ast.Call, place: Place) -> list[Place]:
    """The functions that a call may go to: of an object that is not known, each method of that name."""
    called = own.called(call, place)
    if called is not None or not isinstance(call.func, ast.Attribute) or not dotted(call.func.value):
        return [] if called is None else [called]
    return own.methods(call.func.attr)
