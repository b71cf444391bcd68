"""A value that is rewritten in place and read afterwards under another name: who reads it, and whether it was meant."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest
import torch

from gradgate.watch import reads, rewrites
from gradgate.watch.catalogue import described, make
from gradgate.watch.ops import Facts, facts_of
from gradgate.watch.recorder import Recorder
from gradgate.watch.rewrites import Rewrites, _Alias

ADD, RELU, VIEW = (
    facts_of(op) for op in (torch.ops.aten.add.Tensor, torch.ops.aten.relu_.default, torch.ops.aten.view.default)
)


@pytest.fixture(autouse=True)
def nothing_is_known() -> None:
    """Answers are kept by code, whose equality does not look at the file."""
    reads.later.cache_clear()


def codes(code: CodeType) -> list[CodeType]:
    """A code object and all inside of it."""
    return [code, *chain.from_iterable(codes(part) for part in code.co_consts if isinstance(part, CodeType))]


def later(folder: Path, body: str, name: str = "x", **how: bool) -> list[int]:
    """The lines of a function `f` that read a name after the line marked HERE; the first of the body is 1."""
    lines = ["def f(x, y, layer):", *("    " + line for line in body.strip("\n").split("\n"))]
    file = folder / f"program_{len(list(folder.iterdir()))}.py"  # a file is parsed once
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    code = next(part for part in codes(compile(file.read_text(), str(file), "exec")) if part.co_name == "f")
    line = next(number for number, text in enumerate(lines, 1) if "HERE" in text)
    found = reads.later(code, line, name, **{"contained": False, "spelled": False, **how})
    return sorted(number - 1 for number in found)


def test_name_is_read_later_until_it_means_something_else(tmp_path: Path):
    """The line that gives it a new meaning may read it still."""
    body = "before = x\ny = layer(x)  # HERE\na = x + y\nb = y\nx = x * 2\nreturn x"
    assert later(tmp_path, body) == [3, 5]


@pytest.mark.parametrize(
    "body",
    ["layer(x)  # HERE\nreturn x", "x = layer(x)  # HERE\nreturn x", "x, y = layer(x)  # HERE\nreturn x"],
    ids=["thrown away", "renamed", "among others"],
)
def test_name_is_rewritten_on_purpose_where_the_statement_says_so(tmp_path: Path, body: str):
    """The result thrown away, or given to the very name."""
    assert later(tmp_path, body) == []


def test_container_is_read_later_though_the_statement_names_its_part(tmp_path: Path):
    """A part of it may well be given a new name there, beside calls or not."""
    body = "x = layer(x)  # HERE\nreturn x"
    assert later(tmp_path, body, contained=True) == [2]
    assert later(tmp_path, "y = x + layer(x)  # HERE", contained=True) == []
    assert later(tmp_path, "layer(x)  # HERE\nreturn x", contained=True) == []


def test_name_is_read_on_any_kind_of_statement(tmp_path: Path):
    """Of a compound one the head counts; nested functions too."""
    body = "y = layer(x)  # HERE\nif x.sum():\n    y = 1\nfor part in x:\n    del part\nreturn lambda: x"
    assert later(tmp_path, body) == [2, 4, 6]


def test_name_is_not_read_where_only_its_outside_is_told(tmp_path: Path):
    """Shapes and the like, and what is put into it."""
    body = "y = layer(x)  # HERE\na = x.shape, x.device\nx.append(y)\nx = 0\nreturn x"
    assert later(tmp_path, body) == []
    assert later(tmp_path, "y = layer(x)  # HERE\na = x.mean()\nb = y.x.shape") == [2]


@pytest.mark.parametrize(
    ("statement", "lines"),
    [
        ("y = x + layer(x)", [1]),
        ("y = layer(x) + x", [1]),
        ("y = layer(x)", []),
        ("y = layer(x, x)", []),
        ("y = layer(other=x) * x", [1]),
        ("y = cat(x, layer(x))", [1]),
        ("y = cat(layer(x), layer(y))", []),
        ("y = cat(layer(x), layer(x))", []),
        ("y = x(layer(x))", [1]),
        ("y = outer(inner(x), y)", []),
        ("y = x + 1", []),
    ],
)
def test_name_is_read_beside_the_call_that_it_is_passed_to(tmp_path: Path, statement: str, lines: list[int]):
    """Or around it: `x + layer(x)` reads both before and after, whichever comes first."""
    assert later(tmp_path, statement + "  # HERE") == lines


def test_name_is_read_beside_a_call_on_every_line_of_the_statement(tmp_path: Path):
    """A frame tells a line of it, and not which; the statement is found by any."""
    body = "y = (\n    x +\n    layer(x)  # HERE\n)\nz = x"
    assert later(tmp_path, body) == [1, 2, 3, 4, 5]


def test_operation_spelled_out_is_meant_for_what_it_writes(tmp_path: Path):
    """`x.mul_(2)` says itself that x changes; a line that reads what was written on purpose shows nothing."""
    body = "y = x.mul_(2)  # HERE\nz = x + 1"
    assert later(tmp_path, body, spelled=True) == []
    assert later(tmp_path, body, spelled=False) == [2]
    body = "y = z.mul_(2)  # HERE\na = x + y\nb = x"
    assert later(tmp_path, body, spelled=True) == [3]
    assert later(tmp_path, body, spelled=False) == [2, 3]
    assert later(tmp_path, "y = f.relu(z)  # HERE\nb = x", spelled=True) == [2]
    assert later(tmp_path, "y = x.z.mul_(2)  # HERE\nb = x", spelled=True) == []
    assert later(tmp_path, "y = x.mul(2)  # HERE\nb = x", spelled=True) == [2]


@pytest.mark.parametrize(
    ("statement", "lines"),
    [
        ("y: int = layer(x)", [2]),
        ("y += layer(x)", [2]),
        ("return layer(x)", [2]),
        ("assert layer(x)", [2]),
        ("raise layer(x)", [2]),
        ("del y[layer(x)]", [2]),
        ("for y in layer(x): pass", []),
    ],
)
def test_statement_is_any_simple_one(tmp_path: Path, statement: str, lines: list[int]):
    """What a compound statement does is not known."""
    assert later(tmp_path, f"{statement}  # HERE\nz = x") == lines


def test_function_is_found_by_name_and_first_line(tmp_path: Path):
    """Of two of one name the right one; decorated, its code begins at the first decorator; a module's has no name."""
    text = (
        "import functools\nclass A:\n    def f(x):\n        y = g(x)\n        return x\n"
        "class B:\n    @staticmethod\n    @functools.cache\n    def f(x):\n        y = g(x)\n\n        return x\n"
        "x = 1\ny = f(x)\nz = x\n"
    )
    file = tmp_path / "program.py"
    file.write_text(text, encoding="utf-8")
    module, *inner = codes(compile(text, str(file), "exec"))
    first, second = (code for code in inner if code.co_name == "f")
    how = {"contained": False, "spelled": False}
    assert reads.later(first, 4, "x", **how) == {5}
    assert reads.later(second, 10, "x", **how) == {12}
    assert reads.later(module, 14, "x", **how) == {15}
    assert reads.later(first, 99, "x", **how) == set()
    assert reads.later(first.replace(co_firstlineno=4), 4, "x", **how) == set()


def test_function_without_source_tells_nothing(tmp_path: Path):
    """The file may have changed since, or be no Python."""
    file = tmp_path / "program.py"
    file.write_text("def f(:\n", encoding="utf-8")
    code = next(part for part in codes(compile("def f(x):\n    y = g(x)\n", str(file), "exec")) if part.co_name == "f")
    assert reads.later(code, 2, "x", contained=False, spelled=False) == set()


def aliases(target: Any, frame: FrameType | None, *, spelled: bool = False) -> list[tuple[str, bool]]:
    """Names and whether they are containers."""
    found = rewrites._aliases(target, frame, spelled=spelled)
    assert all(alias.lines for alias in found)
    return [(alias.name, alias.contained) for alias in found]


def test_alias_is_a_name_that_is_read_later():
    """Of the tensor itself or of a container with it; not one that is never read again."""
    target = torch.ones(1)
    other, unread, part, holder = target, target, torch.ones(1), {"a": target}
    found = aliases(target, sys._getframe())
    kept = [other, part, holder]
    assert (found, len(kept)) == ([("other", False), ("holder", True)], 3)
    del unread


def test_alias_in_a_container_is_none_where_the_operation_is_spelled_out():
    """Whoever writes `x.relu_()` knows the tensor; another name for it counts all the same."""
    target = torch.ones(1)
    other, holder = target, [target]
    found = aliases(target, sys._getframe(), spelled=True)
    kept = [other, holder]
    assert (found, len(kept)) == ([("other", False)], 2)


def inner(target: Any, *, spelled: bool) -> list[tuple[str, bool]]:
    """A function that rewrites what it is given."""
    result = aliases(target.view_(), sys._getframe(), spelled=spelled)
    return [*result, ("its own", target is None)]


class Given:
    """A target with methods whose names say that it changes."""

    def view_(self) -> Given:
        return self

    def found_(self) -> list[tuple[str, bool]]:
        """Its aliases, where the operation is spelled out in here."""
        return aliases(self, sys._getframe(), spelled=True)


def test_alias_in_a_calling_function_is_not_the_one_that_spells_the_operation():
    """Its line may name a method that ends in an underscore for other reasons."""
    target = Given()
    found = target.found_()
    assert (found, target is None) == ([("target", False)], False)


def test_alias_in_a_container_counts_though_the_line_names_the_container_anew():
    """A part of it may have got the new name."""
    target = torch.ones(1)
    holder = [target]
    holder, found = holder, aliases(target, sys._getframe())
    assert (found, len(holder)) == ([("holder", True)], 1)


def test_alias_is_known_to_the_function_that_spells_the_operation():
    """Its callers may not know: there the name counts."""
    target = Given()
    found = inner(target, spelled=True)
    assert (found, target is None) == ([("target", False), ("its own", False)], False)
    again = inner(target, spelled=False)
    assert (again, target is None) == ([("target", False), ("target", False), ("its own", False)], False)


def test_alias_remembers_where_it_is_read():
    """Its function, its lines."""
    target = torch.ones(1)
    other = target
    (found,) = rewrites._aliases(target, sys._getframe(), spelled=False)
    kept = other
    line = sys._getframe().f_lineno - 1
    assert found == _Alias(sys._getframe().f_code, "other", frozenset({line}), contained=False)
    del kept


def deep(depth: int, target: Any) -> list[tuple[str, bool]]:
    """Look for aliases from some frames further in."""
    return aliases(target, sys._getframe()) if depth <= 1 else deep(depth - 1, target)


def test_alias_is_looked_for_in_thirty_two_frames():
    """And no further out than the stack is long."""
    target = Given()
    for depth, names in ((31, ["other"]), (32, [])):
        other = target
        found = deep(depth, target)
        assert ([name for name, _ in found if name == "other"], other is target) == (names, True)
    assert aliases(target, None) == []


@pytest.mark.parametrize(
    ("form", "contains"),
    [
        (lambda part, size: [0] * (size - 1) + [part], True),
        (lambda part, size: (*range(size - 1), part), True),
        (lambda part, size: {**dict.fromkeys(range(size - 1)), "last": part}, True),
        (lambda part, size: {part}, False),
        (lambda part, size: [[part]], False),
        (lambda part, size: [], False),
        (lambda part, size: {}, False),
    ],
)
def test_container_is_a_plain_one_of_up_to_sixty_four(form: Any, contains: bool):
    """Looked into once, by identity."""
    part = Given()
    assert rewrites._contains(form(part, 64), part) is contains
    assert not rewrites._contains(form(part, 66), part) or not contains
    assert not rewrites._contains(form(Given(), 64), part)
    if contains:
        assert not rewrites._contains(form(part, 65), part)


def frame_of(file: str, back: Any = None, code: Any = None, line: int = 1) -> Any:
    """A frame that is asked for its file, its line and its caller."""
    return SimpleNamespace(f_code=code or SimpleNamespace(co_filename=file), f_lineno=line, f_back=back)


def test_operation_is_spelled_by_the_user_where_nobody_stands_between():
    """The compiler's wrappers do not count, a layer of PyTorch's does."""
    user = frame_of("train.py")
    layer = frame_of("/torch/nn/functional.py", user)
    assert rewrites._is_spelled(user, user)
    assert not rewrites._is_spelled(layer, user)
    assert not rewrites._is_spelled(None, user)
    wrapped = frame_of("/torch/_dynamo/eval_frame.py", frame_of("/torch/_compile.py", user))
    assert rewrites._is_spelled(wrapped, user)
    assert not rewrites._is_spelled(frame_of("/torch/_compile.py"), user)


def test_alias_is_read_by_the_line_on_the_stack():
    """Of the innermost frame of its function; where that has returned, a container may be read by anybody."""
    code = test_alias_is_read_by_the_line_on_the_stack.__code__
    for contained in (False, True):
        alias = _Alias(code, "x", frozenset({7}), contained)
        caller = frame_of("", None, code, 7)
        assert rewrites._reads(alias, frame_of("other", caller))
        assert not rewrites._reads(alias, frame_of("other", frame_of("", caller, code, 8)))
        assert rewrites._reads(alias, frame_of("other")) is contained


def look(watcher: Rewrites, facts: Facts, args: Any, recorder: Any = None, caller: Any = "layer") -> Recorder:
    """An operation called by the caller of this function, or by a layer that it calls."""
    frame: Any = sys._getframe(1)
    recorder = recorder or Recorder()
    watcher.look(facts, args, frame, recorder, frame_of("layer.py") if caller == "layer" else frame)
    return recorder


def test_rewritten_value_that_is_read_later_is_told():
    """The line of the rewriting, the line that made the value, the operation, the other name."""
    watcher, recorder = Rewrites(), Recorder()
    value = torch.ones(2, requires_grad=True).exp()
    recorder.lines.set(value.grad_fn._sequence_nr(), (make.__code__, 3))
    other = value
    done = look(watcher, RELU, [value], recorder)
    line = sys._getframe().f_lineno - 1
    value.relu_()
    look(watcher, ADD, [1.0, other], recorder)
    look(watcher, ADD, [1.0, other], recorder)
    code = sys._getframe().f_code
    assert recorder.ledger.since(0) == [
        make(
            "other", "relu_() rewrites a value that is read afterwards: `other` is the same tensor",
            culprit=(code, line), victim=(make.__code__, 3), severity="warning", op="relu_",
            tensor=described(value),
            why="the later read gets the rewritten numbers: the program computes something else than it says",
            fix="use the out-of-place form (`inplace=False`, no underscore), or clone `other` before",
        )
    ]  # fmt: skip
    assert (watcher.open, done is recorder) == ({}, True)


def test_rewritten_value_in_a_container_is_told_so():
    """The container holds it."""
    watcher, recorder = Rewrites(), Recorder()
    value = torch.ones(2, requires_grad=True).exp()
    parts = [value]
    done = look(watcher, RELU, [value], recorder)
    value.relu_()
    look(watcher, ADD, [parts[0], 1], recorder)
    assert [one.message for one in recorder.ledger.since(0)] == [
        "relu_() rewrites a value that is read afterwards: `parts` holds the same tensor"
    ]
    assert done is recorder


def opened(spoil: str = "") -> tuple[Rewrites, Recorder, Any, Any]:
    """A value that was rewritten, read later as `other`."""
    watcher, recorder = Rewrites(), Recorder()
    value = torch.ones(2, requires_grad=True).exp()
    if spoil == "leaf":
        value = torch.ones(2, requires_grad=True)
    other = value
    recorder.functions.depth = int(spoil == "in a function")
    with torch.set_grad_enabled(spoil != "no grad"):
        facts = ADD if spoil == "no write" else RELU
        done = look(watcher, facts, [] if spoil == "nothing" else ["text"] if spoil == "text" else [value], recorder)
    kept = other
    recorder.functions.depth = 0
    return watcher, done, value, kept


@pytest.mark.parametrize("spoil", ["leaf", "in a function", "no grad", "no write", "nothing", "text"])
def test_value_is_not_rewritten_where_autograd_does_not_follow(spoil: str):
    """A leaf, inside of a custom Function, without gradients, no write, nothing written."""
    assert opened(spoil)[0].open == {}
    assert len(opened()[0].open) == 1


def test_value_without_another_name_is_forgotten():
    """One that is rewritten anew begins anew."""
    watcher, recorder, value, _ = opened()
    (known,) = watcher.open.values()
    known.version = value._version
    look(watcher, RELU, [value], recorder)
    assert watcher.open == {}


@pytest.mark.parametrize(("caller", "count"), [("user", 0), ("layer", 1)])
def test_value_in_a_container_is_meant_where_the_operation_is_spelled_out(caller: str, count: int):
    """By the user's own line, not by a layer that it calls."""
    watcher = Rewrites()
    value = torch.ones(2, requires_grad=True).exp()
    parts = [value]
    done = look(watcher, RELU, [value], caller=caller)
    assert (len(watcher.open), len(parts), done is None) == (count, 1, False)


@pytest.mark.parametrize("spoil", ["", "view", "no grad", "in a function", "detach", "number"])
def test_rewritten_value_is_read_by_what_computes_with_it(spoil: str):
    """Not by a view, nor without gradients, nor inside of a custom Function, nor by `detach()` and `item()`."""
    watcher, recorder, value, _ = opened()
    (known,) = watcher.open.values()
    known.version = value._version
    known.aliases[0].contained = True  # whoever reads it
    known.aliases[0].code = make.__code__
    facts = {
        "view": VIEW,
        "detach": facts_of(torch.ops.aten.detach.default),
        "number": facts_of(torch.ops.aten._local_scalar_dense.default),
    }.get(spoil, ADD)
    recorder.functions.depth = int(spoil == "in a function")
    with torch.set_grad_enabled(spoil != "no grad"):
        look(watcher, facts, [torch.ones(1), [value]], recorder)
    assert (len(recorder.ledger.since(0)), len(watcher.open)) == ((0, 1) if spoil else (1, 0))


def test_rewritten_value_is_forgotten_once_it_is_rewritten_again():
    """By whoever did not ask; a value of which no alias is read now is kept."""
    watcher, recorder, value, _ = opened()
    (known,) = watcher.open.values()
    assert known.version == value._version + 1
    known.version = value._version
    look(watcher, ADD, [value], recorder)
    assert (len(watcher.open), recorder.ledger.since(0)) == (1, [])
    value.relu_()
    look(watcher, ADD, [value], recorder)
    assert (watcher.open, recorder.ledger.since(0)) == ({}, [])


def test_rewritten_value_is_another_where_only_its_identity_is_the_same():
    """An address that Python used again."""
    watcher, recorder, value, _ = opened()
    other = value.detach().clone().requires_grad_()
    watcher.open = {id(other): next(iter(watcher.open.values()))}
    watcher.open[id(other)].version = other._version
    watcher.open[id(other)].aliases[0].contained = True
    watcher.open[id(other)].aliases[0].code = make.__code__
    look(watcher, ADD, [other], recorder)
    assert (watcher.open, recorder.ledger.since(0)) == ({}, [])
