"""A saved tensor that is not what was saved: what is said of it, and which write is to blame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import gradgate
from gradgate.core.finding import Finding
from gradgate.watch import damage
from gradgate.watch.ops import facts_of
from gradgate.watch.places import location
from gradgate.watch.saved import Saved, Shelf, Write

NO_OP = "a tensor was overwritten with no torch operation after the graph saved it for backward"
WHY = "backward reads the overwritten numbers: the step crashes, or its gradient is wrong"


def program(weights: Any, F: Any, init: Any) -> None:
    """Lines to be blamed; nobody runs them."""
    weights = F.softmax(weights, dim=1)
    weights[:, 0] = 0.0
    weights.mul_(2)
    init(weights)
    weights.data.clamp_(0)


FIRST = program.__code__.co_firstlineno
SAVED, SLICE, METHOD, UNNAMED, DATA = ((program.__code__, FIRST + number) for number in range(2, 7))


def nothing(*_: Any) -> None:
    """What a shelf tells nobody."""


def kept(tensor: Tensor | None = None) -> Saved:
    """A tensor that a graph has saved."""
    return Shelf(nothing, nothing).keep(torch.ones(2, 3) if tensor is None else tensor, 1)


def explained(write: Write | None, *, moved: bool) -> Finding:
    """What is said of a saved tensor after one write, which moved its version or not."""
    saved = kept()
    saved.writes = [write] if write else []
    if moved:
        saved.tensor.add_(1)
    return damage.explain(saved, SAVED)


def test_damage_says_all_there_is_to_say():
    """Kind, both lines, the operation, the tensor, the versions and a fix made of the line's own words."""
    found = explained(Write(METHOD, "mul_", 0), moved=True)
    assert found == Finding(
        "GG101",
        "inplace-on-saved-tensor",
        "`weights` was overwritten after the graph saved it for backward (version 0 -> 1)",
        kind="inplace_saved",
        culprit=location(METHOD),
        victim=location(SAVED),
        op="mul_",
        tensor={"shape": [2, 3], "dtype": "float32", "device": "cpu"},
        confirmed=True,
        detail={"version saved": 0, "version found": 1},
        why=WHY,
        fix="write to a new tensor: `mul` without underscore, or clone `weights` before the write",
    )


@pytest.mark.parametrize(
    ("write", "moved", "kind", "message"),
    [
        (Write(SLICE, "copy_", 0), True, "inplace_saved",
         "`weights` was overwritten after the graph saved it for backward (version 0 -> 1)"),
        (Write(UNNAMED, "zero_", 0), True, "inplace_saved",
         "a tensor was overwritten by zero_() after the graph saved it for backward (version 0 -> 1)"),
        (None, True, "inplace_saved",
         "a tensor was overwritten by an unseen operation after the graph saved it for backward (version 0 -> 1)"),
        (Write(UNNAMED, "add_", 0, by_optimizer=True), True, "optimizer_step_between",
         "a parameter was overwritten by add_() after the graph saved it for backward (version 0 -> 1)"),
        (Write(METHOD, "mul_", 0, by_backward=True, by_optimizer=True), True, "custom_function",
         "`weights` was overwritten by mul_() after the graph saved it for backward (version 0 -> 1)"),
        (Write(DATA, "clamp_", 0), False, "silent_data_write",
         "`weights` was overwritten by clamp_() after the graph saved it for backward (its version stayed 0)"),
        (Write(UNNAMED, "", 0), False, "silent_alias_write", NO_OP + " (its version stayed 0)"),
        (None, False, "silent_alias_write", NO_OP + " (its version stayed 0)"),
    ],
)  # fmt: skip
def test_damage_is_named_by_who_wrote_and_how(write: Write | None, moved: bool, kind: str, message: str):
    """In place, by an optimizer, by a backward, past the version, or past torch."""
    found = explained(write, moved=moved)
    assert (found.kind, found.message) == (kind, message)
    assert (found.op, found.culprit) == ((write.op or None, location(write.place)) if write else (None, None))


def test_damage_blames_the_write_that_did_it():
    """The first that moved the version; a silent one only where none did."""
    saved = kept()
    saved.writes = [Write(DATA, "clamp_", 0), Write(SLICE, "copy_", 0)]
    saved.tensor.add_(1)
    assert damage.explain(saved, None).culprit == location(SLICE)
    saved = kept()
    saved.writes = [Write(DATA, "clamp_", 0, changed=False), Write(METHOD, "mul_", 0)]
    assert damage.explain(saved, None).culprit == location(METHOD)


def test_damage_has_the_kinds_own_fix_where_the_line_says_nothing():
    """No name, no operation of the line's own."""
    assert explained(Write(UNNAMED, "zero_", 0), moved=True).fix == (
        "write to a new tensor: drop the trailing underscore or `out=`, or clone before the write"
    )


@pytest.mark.parametrize(
    ("kind", "op", "name", "saver", "fix"),
    [
        ("inplace_saved", "fill_", "w", "softmax()",
         "mask before the softmax: softmax(scores.masked_fill(~valid, -inf)), and leave `w` as it is"),
        ("inplace_saved", "fill_", "", "log_softmax()",
         "mask before the log_softmax: log_softmax(scores.masked_fill(~valid, -inf)), and leave its result as it is"),
        ("inplace_saved", "mul_", "w", "mul()",
         "write to a new tensor: `mul` without underscore, or clone `w` before the write"),
        ("inplace_saved", "mul_", "", "mul()", ""),
        ("inplace_saved", "_foreach_mul_", "w", "mul()", ""),
        ("inplace_saved", "copy", "w", "mul()", ""),
        ("silent_data_write", "mul_", "w", "softmax()",
         "write to a new tensor instead of `w`'s memory, or do it after backward; never through `.data`"),
        ("silent_data_write", "mul_", "", "mul()", ""),
        ("silent_alias_write", "", "w", "softmax()", ""),
        ("optimizer_step_between", "add_", "w", "mul()", ""),
    ],
)  # fmt: skip
def test_fix_says_what_to_write_instead(kind: Any, op: str, name: str, saver: str, fix: str):
    """Where the operations say more than the kind: a mask before a softmax, the form without underscore."""
    assert damage._fix(kind, op, name, saver) == fix


def asked_by(run: Any) -> list[str]:
    """Who asks for saved tensors in the backward of a program's result."""
    asked: list[str] = []

    def unpack(tensor: Tensor) -> Tensor:
        asked.append(damage._saver())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        result = run(torch.linspace(0.1, 1, 6).reshape(2, 3).requires_grad_())
    result.sum().backward()
    return asked


def test_saver_is_the_operation_whose_backward_runs():
    """In the words of the library: `log_softmax()`; nobody where no backward runs."""
    assert damage._saver() == ""
    assert asked_by(lambda value: value.exp()) == ["exp()"]
    assert asked_by(lambda value: value.log_softmax(-1)) == ["log_softmax()"]
    assert set(asked_by(lambda value: torch.nn.functional.layer_norm(value, (3,)))) == {"native_layer_norm()"}
    assert set(asked_by(lambda value: torch.logaddexp2(value, value))) == {"logaddexp2()"}


def test_saver_is_named_without_its_namespace():
    """`torch::autograd::AccumulateGrad`."""
    said: list[str] = []
    leaf = torch.ones(1, requires_grad=True)
    node: Any = leaf.view_as(leaf).grad_fn.next_functions[0][0]
    handle = node.register_prehook(lambda _: said.append(damage._saver()))
    (leaf * 2).sum().backward()
    handle.remove()
    assert said == ["accumulate_grad()"]


def test_damage_names_who_saved_the_tensor():
    """While its backward runs; the fix of a softmax is a mask before it."""
    told: list[Finding] = []

    def unpack(tensor: Tensor) -> Tensor:
        saved = kept(tensor.detach())
        saved.writes = [Write(SLICE, "copy_", saved.version)]
        saved.tensor.add_(0)
        told.append(damage.explain(saved, None))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        result = torch.ones(2, requires_grad=True).softmax(0)
    result.sum().backward()
    assert "`weights` was overwritten after softmax() saved it for backward (version " in told[0].message
    assert told[0].fix.startswith("mask before the softmax: ")


@pytest.mark.parametrize(
    ("name", "leaf", "grad", "step"),
    [
        ("sub_", True, True, True),
        ("add_", True, True, True),
        ("copy_", True, True, True),
        ("mul_", True, True, False),
        ("sub_", True, False, False),
        ("sub_", False, True, False),
    ],
)
def test_manual_step_adds_to_a_parameter_with_a_gradient(name: str, leaf: bool, grad: bool, step: bool):
    """Anything else in place is no update."""
    facts = facts_of(getattr(getattr(torch.ops.aten, name), "default" if name == "copy_" else "Tensor"))
    target = torch.ones(2, requires_grad=leaf)
    target.grad = torch.ones(2) if grad else None
    assert damage.is_manual_step([torch.ones(2), target], facts) is step
    assert not damage.is_manual_step([], facts)


@pytest.mark.parametrize(
    "name", ["addcdiv_", "addcmul_", "_foreach_add_", "_foreach_sub_", "lerp_", "add_", "sub_", "copy_"]
)
def test_manual_step_is_any_operation_that_optimizers_are_made_of(name: str):
    """Whatever its overload."""
    target = torch.ones(2, requires_grad=True)
    target.grad = torch.ones(2)
    facts: Any = SimpleNamespace(name=name)
    assert damage.is_manual_step([target], facts)


def test_recheck_notes_a_line_that_changed_the_memory():
    """With no operation; earlier lines that did so count no more, operations do."""
    saved = kept()
    saved.seen = damage.fingerprint(saved.tensor)
    damage.recheck(saved, SLICE, by_backward=False)
    assert saved.writes == []
    operation = Write(METHOD, "mul_", 0)
    saved.writes = [operation, Write(SLICE, "", 0)]
    saved.tensor.numpy()[0, 0] = 7
    for _ in range(2):
        damage.recheck(saved, UNNAMED, by_backward=True)
    assert saved.writes == [operation, Write(UNNAMED, "", 0, by_backward=True)]
    assert saved.seen == damage.fingerprint(saved.tensor)


def test_damage_by_a_write_that_nobody_saw_raises_what_pytorch_raises():
    """Another thread's write, or one by code that moves the version itself: found in backward, with no culprit."""
    weight = torch.ones(2, requires_grad=True)
    watch = gradgate.watch(weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"), watch:
        result = weight.exp()
        torch.autograd.graph.increment_version(result)
        result.sum().backward()
    assert [(finding.kind, finding.culprit) for finding in watch.findings] == [("inplace_saved", None)]
