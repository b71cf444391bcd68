"""A frozen copy of the model is never put into eval mode, and the model has dropout.

## What it detects

A reference, a teacher, an old policy or a target network that is copied from the model, or built and loaded like it, is
frozen, and gets no `eval()`.

## Why it matters

`requires_grad_(False)` stops the training and not the dropout: what the reference says of one batch is another thing
each time it is asked. A KL from it, a reward or a weight that is taken from it carry noise that no average removes, and
at the first step, where the two models are one, they differ.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked for is what is called
a reference (`reference`, `ref_model`, `teacher`, `old_policy`, `critic_target`, or what `build_reference()` returns),
or is a `deepcopy` of a model under whatever name, also where an object is made with it, and

* is a `deepcopy` of a model, or is built by the trainer's own function or class and given a `load_state_dict`;
* is frozen, or is called without a gradient;
* is called somewhere, by that name or another one that it is handed on by.

Left alone is one that is put into eval mode anywhere in the trainer, in whatever way, or is given to a function of
another's that may do it; one that is copied from a model in eval mode; one whose weights are moved with those of the
model, as by an average, since noise in it is often meant; and one of a model that has no dropout, as far as that
model's classes are known, else if the trainer has none. Statistic: such references; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
reference = copy.deepcopy(model)
reference.requires_grad_(False)
```

Good:

```python
reference = copy.deepcopy(model).eval()
reference.requires_grad_(False)
```

## How to fix

`.eval()` where the reference is made. Where it is a part of a module, that one's `train()` has to leave it so.

## Known limits

Models of a library are as it gives them, `from_pretrained` in eval mode. A reference that a `train()` of the whole puts
back into train mode is GG421's, which runs it. A teacher that is meant to be noisy is to be expected with a reason.

## Sources

PyTorch's notes on autograd: evaluation mode is apart from what disables gradients, and `requires_grad=False` leaves
dropout on.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property

from gradgate.checks.source.dropouts import drops
from gradgate.checks.source.places import Place
from gradgate.checks.source.reference_uses import Uses
from gradgate.checks.source.references import chain_of, copied_in, copy_key, kinds_of, meant, model_named, puts_in_eval
from gradgate.checks.source.trainer import NONE, File, called_name, calls_in, dotted, files_of, given_by
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG450", "reference-in-train-mode"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WORDS = ("ref", "teacher", "old", "target", "frozen", "anchor", "initial", "baseline")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for frozen copies that drop units."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    asked = any(file.has("rop") for file in files) and any(
        file.has("deepcopy(") or (file.has(".load_state_dict(") and file.has(*WORDS)) for file in files
    )
    findings = tuple(_References(files).all()) if asked else ()
    return Outcome(findings, {"references": len(findings)}, {"references": 0})


class _References:
    """The references of a trainer, and what they are copies of.

    Args:
        files: of the trainer.
    """

    def __init__(self, files: tuple[File, ...]) -> None:
        self.uses = Uses(files)
        self.models = _Models(self.uses, files)

    def all(self) -> Iterator[Finding]:
        """Those that are frozen, called, of a model with dropout, and never in eval mode."""
        for place in self.uses.places:
            if place.file.has("deepcopy(", ".load_state_dict(") and not self._puts_itself(place):
                for name, kinds, value in self._made(place):
                    if self._drops(kinds, value, place):
                        yield _finding(value, name, place)

    def _puts_itself(self, place: Place) -> bool:
        """Whether the class that a function belongs to puts all of itself into eval mode."""
        calls = calls_in(place.owner) if place.owner is not None else ()
        return any(
            isinstance(call.func, ast.Attribute)
            and ast.unparse(call.func.value) in ("self", "super()")
            and puts_in_eval(call)
            for call in calls
        )

    def _made(self, place: Place) -> Iterator[tuple[str, frozenset[str], ast.expr]]:
        """What a function makes that is called a reference, here or where it is returned to, each with its value."""
        nodes = place.nodes
        of_function = self.uses.kinds_of_function(place.function.name)
        returned = {dotted(chain_of(node.value)[0]) for node in nodes if isinstance(node, ast.Return) and node.value}
        own_name = kinds_of(place.function.name)
        for target, value in assignments_in(nodes):
            name = dotted(target)
            for each in _branches(value) if name else ():
                kinds = kinds_of(name)
                if name in returned:  # what builds every model builds references, too
                    kinds |= of_function if any(True for _ in copied_in(each)) else own_name
                kinds = kinds or _of_copy(each)
                if kinds:
                    yield name, kinds, each
        for node in nodes:
            if isinstance(node, ast.Call):  # a scorer is given it
                for each in given_by(node):
                    if kinds := _of_copy(each):
                        yield ast.unparse(chain_of(each)[0]), kinds, each
            if isinstance(node, ast.Return) and node.value is not None and of_function:
                yield from ((place.function.name, of_function, each) for each in _branches(node.value))

    def _drops(self, kinds: frozenset[str], value: ast.expr, place: Place) -> bool:
        """Whether a reference that is made so is a frozen model in train mode, with dropout."""
        first, methods = chain_of(value)
        if not isinstance(first, ast.Call) or any(map(puts_in_eval, methods)) or "dropout" in ast.unparse(first):
            return False
        frozen = any(isinstance(call.func, ast.Attribute) and call.func.attr == "requires_grad_" for call in methods)
        if kinds & self.uses.eased or not kinds & self.uses.called or not (frozen or kinds & self.uses.frozen):
            return False
        source = next((model for made, model in copied_in(first) if made is first), None)
        if source is None and kinds & self.uses.loaded:
            source = self.models.built_like(first, place)
        return source is not None and not self.models.in_eval(source, place) and self.models.drop(source, place)


class _Models:
    """The models that references are copied from.

    Args:
        uses: of the trainer's references.
        files: of the trainer.
    """

    def __init__(self, uses: Uses, files: tuple[File, ...]) -> None:
        self.uses = uses
        self._files = files
        self._named: dict[str, list[ast.AST]] = {}
        functions = [place.function for place in uses.own.functions if place.owner is None]
        classes = [node for file in files for node in file.nodes if isinstance(node, ast.ClassDef)]
        for node in (*functions, *classes):
            self._named.setdefault(node.name, []).append(node)

    def built_like(self, call: ast.Call, place: Place) -> ast.expr | None:
        """The model whose class is called, or the call itself, where one of the trainer's own builds it."""
        if isinstance(call.func, ast.Call) and dotted(call.func.func) == "type" and call.func.args:
            return call.func.args[0]
        if isinstance(call.func, ast.Attribute) and call.func.attr == "__class__":
            return call.func.value
        name = called_name(call)
        built = [*self._named.get(name, ()), *(each.function for each in meant(self.uses.own, call, place))]
        told = kinds_of(name) or any(True for each in built for _ in copied_in(each))  # there
        return call if built and not told else None

    def drop(self, source: ast.expr, place: Place) -> bool:
        """Whether the classes of a model, or of the part of one, have dropout; if not known, whether anything has."""
        if made := self._part(source):
            return any(map(drops, self._reached(made)))
        values = [(source, place), *self._values(source, place, 2)]
        roots = {name for value, _ in values for name in _last_names(value)} & set(self._named)
        if any("from_pretrained" in ast.unparse(value) for value, _ in values):
            return False
        if roots:
            return any(map(drops, self._reached(roots)))
        return not any(file.has("from_pretrained(") for file in self._files) and self._any

    def _part(self, source: ast.expr) -> set[str]:
        """The classes of a part of a model (`model.value_head`); empty where it is no part, or not known."""
        *whole, part = dotted(source).removeprefix("self.").split(".")
        if not whole:
            return set()
        values = (value for each in self.uses.places for target, value in assignments_in(each.nodes)
                  if dotted(target) == f"self.{part}")  # fmt: skip
        return {name for value in values for name in _last_names(value)} & set(self._named)

    def in_eval(self, source: ast.expr, place: Place) -> bool:
        """Whether a model is in eval mode where it is copied: as given, as built, or by a line in front."""
        for value, where in [(source, place), *self._values(source, place, 2)]:
            first, methods = chain_of(value)
            if any(map(puts_in_eval, methods)) or self._last_mode(first, where):
                return True
            built = [each for call in calls_in(value) for each in meant(self.uses.own, call, where)]
            if any(puts_in_eval(call) for each in built for call in calls_in(each.function)):
                return True
        return False

    def _last_mode(self, model: ast.expr, place: Place) -> bool:
        """Whether the last mode that a function sets in front of the line is that of evaluation."""
        modes = [
            call
            for call in place.nodes
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in ("eval", "train")
            and dotted(call.func.value) == model_named(model) != ""
            and call.lineno < model.lineno
        ]
        return bool(modes) and puts_in_eval(max(modes, key=lambda call: call.lineno))

    def _values(self, model: ast.expr, place: Place, hops: int) -> Iterator[tuple[ast.expr, Place]]:
        """What a model is assigned, annotated with, or given as, here and in what calls this function."""
        name = model_named(model)
        if not name or not hops:
            return
        everywhere = name.startswith("self.")
        for each in self.uses.places if everywhere else [place]:
            if everywhere and not each.file.has(name.removeprefix("self.")):
                continue
            for node in each.nodes:
                if isinstance(node, ast.AnnAssign) and dotted(node.target) == name:
                    yield node.annotation, each
            for target, value in assignments_in(each.nodes):
                if dotted(target) == name:
                    yield value, each
                    yield from self._values(value, each, hops - 1)
        for argument in place.parameters.values():
            if argument.arg == name:
                if argument.annotation is not None:
                    yield argument.annotation, place
                called_by = place.owner.name if place.owner and place.function.name == "__init__" else ""
                for caller, call in self.uses.own.calls_of(called_by or place.function.name):
                    if (given := place.given(call).get(name)) is not None:
                        yield given, caller
                        yield from self._values(given, caller, hops - 1)

    def _reached(self, names: set[str]) -> list[ast.AST]:
        """The classes and functions of these names, and those that they name."""
        waiting, found = list(names), set(names)
        while waiting:
            for node in self._named[waiting.pop()]:
                new = (_last_names(node) & set(self._named)) - found
                found |= new
                waiting += new
        return [node for name in found for node in self._named[name]]

    @cached_property
    def _any(self) -> bool:
        return any(drops(file.tree) for file in self._files if file.has("rop", "TransformerEncoder"))


def _of_copy(value: ast.expr) -> frozenset[str]:
    first, _ = chain_of(value)
    return copy_key(first) if isinstance(first, ast.Call) else frozenset()


def _branches(value: ast.expr) -> list[ast.expr]:
    return [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]


def _last_names(node: ast.AST) -> set[str]:
    """The names that stand in a node, of dotted ones the last part; of an annotation as text, too."""
    texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    names = {part.attr if isinstance(part, ast.Attribute) else part.id for part in _named_parts(node)}
    return names | {text for text in texts if text.isidentifier()}


def _named_parts(node: ast.AST) -> Iterator[ast.Name | ast.Attribute]:
    return (part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute))


def _finding(value: ast.expr, name: str, place: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{name}`, which is frozen, is never put into eval mode, and its model has dropout: two passes of it "
        "over one batch differ; allowed: none",
        culprit=place.file.at(value, place.function.name),
        fix="`.eval()` where it is made",
    )
