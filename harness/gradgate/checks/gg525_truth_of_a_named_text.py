"""A setting that is one of several texts is asked for its truth, which each of them has.

## What it detects

`if cfg.precision: return autocast(...)`, where `precision` is "bf16" or "fp32".

## Why it matters

A text is true unless it is empty. Whoever sets "fp32", "none" or "off" gets what the setting switches on all the same:
autocast in bfloat16, a schedule, a compression. Nothing raises, and the run's name says otherwise.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Settings are the fields of
classes, by their annotation or default, and arguments of a command line. The texts that one may be are those of a
`Literal`, of `choices`, of what it is held against (`in`, `not in`, `==`, `!=`) or looked up in (a table of texts for
keys) anywhere, and its default beside those. A finding is a condition (`if`, `while`, `not`, `and`, `or` within one, a
branch of an expression), a `bool(…)` or an argument `enabled=` that asks for the truth of a setting which may be two
such texts or more, none of them empty, and which is nowhere `None`, optional, empty, a truth value or a number, in YAML
files beside the source and in calls as well. It is asked by its name in a class or a configuration, by a name or an
attribute that holds it, or by the parameter of a function that is given it. A condition that compares it as well asks
for more than its truth. Statistic: such conditions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
enabled = bool(cfg.precision)
```

Good:

```python
enabled = cfg.precision == "bf16"
```

## How to fix

Compare it with the text that is meant.

## Known limits

Two fields of one name are taken for one: where one of them may be empty, the other is left alone.

## Sources

Python, "Truth Value Testing": empty sequences are false, and no other text is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.settings import yaml_files
from gradgate.checks.source.trainer import NONE, File, dotted, files_of
from gradgate.checks.source.values import assignments_in, defaults_of, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.argument_calls import argument_call
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG525", "truth-of-a-named-text"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
HOPS = 3


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for conditions that each value fulfils."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    texts = _settings(files, [content for *_, content in yaml_files(subject)])
    findings = tuple(_found(files, places_in(files), texts)) if texts else ()
    return Outcome(findings, {"conditions": len(findings)}, {"conditions": 0})


def _found(files: tuple[File, ...], own: Places, texts: Mapping[str, set[str]]) -> Iterator[Finding]:
    for place in own.functions if any(file.has(*texts) for file in files) else ():
        for asked, test in _asked(place.nodes):
            compared = {last_name(part) for part in ast.walk(test) if _is_compared(part, test)}
            name = _setting(asked, place, own, texts)
            if name and name not in compared and last_name(asked) not in compared:
                yield _finding(place, asked, name, texts[name])


def _settings(files: tuple[File, ...], contents: Iterable[Any]) -> dict[str, set[str]]:
    """The settings that are one of several texts, each with these."""
    texts, others = dict[str, set[str]](), set[str]()
    for name, values in (pair for file in files for pair in _declared(file)):
        if values is None:
            others.add(name)
        else:
            texts.setdefault(name, set()).update(values)
    known = set(texts) - others
    named = {name for name in known if len(texts[name]) > 1}
    for name, value in (pair for content in contents for pair in _leaves(content)):
        if not isinstance(value, str | Mapping) or not value:
            others.add(name)
    for name, values in (pair for file in files for pair in _given(file, known)):
        if values is None or "" in values:
            others.add(name)
    for name, values in (pair for file in files for pair in _compared(file, known)):
        if values is None:
            others.add(name)
        else:
            texts[name] |= values
            named.add(name)
    return {
        name: values
        for name, values in texts.items()
        if name in named - others and "" not in values and len(values) > 1
    }


def _declared(file: File) -> Iterator[tuple[str, set[str] | None]]:
    """The settings that a file declares, each with the texts that it names; None: it may be something else."""
    for node in file.nodes:
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    yield part.target.id, _of_field(part.annotation, part.value)
        elif (argument := argument_call(node)) is not None:
            choices, default = argument.words.get("choices"), argument.words.get("default")
            named = _texts(choices) if choices is not None else None
            empty = default is None and argument.words.get("required") is None
            gives = _texts(default) if default is not None else set()
            yield argument.name, None if named is None or gives is None or empty else named | gives


def _of_field(annotation: ast.expr, value: ast.expr | None) -> set[str] | None:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    given = set[str]() if value is None else _texts(_default_of(value))
    if isinstance(annotation, ast.Subscript) and last_name(annotation.value) == "Literal":
        named = _texts(annotation.slice) or (_texts(ast.Tuple([annotation.slice], ast.Load())))
        return None if named is None or given is None else named | given
    is_text = isinstance(annotation, ast.Name) and annotation.id == "str"
    return given if is_text else None


def _default_of(value: ast.expr) -> ast.expr:
    """What `field(default=…)` gives."""
    words = {word.arg: word.value for word in value.keywords} if isinstance(value, ast.Call) else {}
    return words.get("default", value)


def _texts(node: ast.expr | None) -> set[str] | None:
    """The texts that are written down, of a list, a tuple, a set or a table; None: something else is among them."""
    parts = getattr(node, "elts", None) or (list(node.keys) if isinstance(node, ast.Dict) else [node])
    found = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return {*found} if len(found) == len(parts) else None


def _compared(file: File, known: set[str]) -> Iterator[tuple[str, set[str] | None]]:
    """The texts that settings are held against, or looked up by; None: one is held against something else."""
    if not known or not file.has(*known):
        return
    tables = {dotted(target): value for target, value in assignments_in(file.nodes) if dotted(target)}
    for node in file.nodes:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            pair = [node.left, node.comparators[0]]
            for one, other in (pair, pair[::-1]):
                if (name := _name_of(one)) in known:
                    held = _texts(tables.get(dotted(other), other))
                    is_none = isinstance(other, ast.Constant) and not isinstance(other.value, str)
                    yield from [(name, None)] if is_none else [(name, held)] if held else []
        elif isinstance(node, ast.Subscript) and (name := _name_of(node.slice)) in known:
            held = _texts(tables.get(dotted(node.value), node.value))
            yield from [(name, held)] if held else []


def _given(file: File, known: set[str]) -> Iterator[tuple[str, set[str] | None]]:
    """What settings are put to by name, where it is written down; None: something else than a text."""
    for node in file.nodes if file.has(*known) else ():
        for target, value in assignments_in([node]):
            if isinstance(target, ast.Attribute) and target.attr in known and isinstance(value, ast.Constant):
                yield target.attr, _texts(value)
        if isinstance(node, ast.Call):
            for word in node.keywords:
                if word.arg in known and isinstance(word.value, ast.Constant):
                    yield word.arg, _texts(word.value)
    for function, _ in file.functions:
        for each, value in defaults_of(function.args):
            if each.arg in known and isinstance(value, ast.Constant):
                yield each.arg, _texts(value)


def _name_of(node: ast.expr) -> str:
    """The setting that something is, in lower letters or not."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        node = node.func.value
    return last_name(node)


def _leaves(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for key, inner in content.items():
            yield str(key), inner
            yield from _leaves(inner)


def _asked(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What conditions ask the truth of, each with its condition."""
    for node in nodes:
        if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            yield from ((each, node.test) for each in _operands(node.test))
        elif isinstance(node, ast.Call):
            if dotted(node.func) == "bool" and len(node.args) == 1:
                yield node.args[0], node
            yield from ((word.value, node) for word in node.keywords if word.arg == "enabled")


def _operands(test: ast.expr) -> Iterator[ast.expr]:
    if isinstance(test, ast.BoolOp):
        for each in test.values:
            yield from _operands(each)
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _operands(test.operand)
    elif isinstance(test, ast.Name | ast.Attribute | ast.Subscript):
        yield test


def _is_compared(part: ast.AST, test: ast.expr) -> bool:
    """Whether a condition holds something against something else."""
    return any(
        isinstance(each, ast.Compare) and any(part is side for side in (each.left, *each.comparators))
        for each in ast.walk(test)
    )


def _setting(node: ast.expr, place: Place, own: Places, texts: Mapping[str, set[str]], hops: int = HOPS) -> str:
    """The setting that something is; empty: none, or it may be something else as well."""
    if isinstance(node, ast.Subscript | ast.Attribute):
        name = last_name(node)
        if dotted(getattr(node, "value", node)) != "self":
            return name if name in texts else ""
        return _attribute(node, place, own, texts, hops)
    if not isinstance(node, ast.Name) or not hops:
        return ""
    held = place.names.held(node)
    if held is not node:
        return _setting(held, place, own, texts, hops - 1)
    if node.id not in place.parameters:
        return ""
    given = list(own.values_given(place, node.id, made=True))
    names = {_setting(value, where, own, texts, hops - 1) for where, value in given}
    defaults = {each.arg: value for each, value in defaults_of(place.function.args)}
    is_text = node.id not in defaults or bool(_texts(defaults[node.id]))
    return names.pop() if len(names) == 1 and is_text else ""


def _attribute(node: ast.expr, place: Place, own: Places, texts: Mapping[str, set[str]], hops: int) -> str:
    """The setting that an attribute of `self` is: a field of the class, or what its methods assign to it alone."""
    methods = own.methods_of(place.owner) if place.owner is not None else []
    given = [(each, value) for each in methods for target, value in assignments_in(each.nodes)
             if dotted(target) == dotted(node)]  # fmt: skip
    fields = {dotted(part.target) for part in (place.owner.body if place.owner is not None else ())
              if isinstance(part, ast.AnnAssign)}  # fmt: skip
    name = last_name(node)
    if name in fields and not given:
        return name if name in texts else ""
    names = {_setting(value, where, own, texts, hops - 1) for where, value in given} if hops else set()
    return names.pop() if len(names) == 1 else ""


def _finding(place: Place, node: ast.expr, name: str, texts: set[str]) -> Finding:
    told = ", ".join(f'"{each}"' for each in sorted(texts)[:4])
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() asks for the truth of `{ast.unparse(node)}`, and `{name}` is one of {told}: each is "
        "true; allowed: a comparison",
        culprit=place.file.at(node, place.name),
        fix="compare it with the text that is meant",
    )
