"""An override of one key replaces its whole section.

## What it detects

`--set optim.lr=0.01` that is read into `{"optim": {"lr": 0.01}}` and merged with `{**content, **overrides}`, `update`
or `|`: all other keys of `optim` are gone, and their defaults are trained with. A stage's `optim: {lr: 0.01}` that is
merged so into what all stages share, or a recipe's file that is merged so into the base's. A merge that goes one level
deep, where `optim.schedule` is a section, too.

## Why it matters

A sweep over the rate changes weight decay and warm-up as well, and no error says so.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports). Where a function splits keys
at their dots and nests dictionaries (`.split(".")`, `setdefault(part, {})`), what is called after overrides, or is what
such a function gives, must not be merged into another mapping at its top level alone, in a file that speaks of
such a function or a function that one of such a file calls: other overrides may be flat. Nor must a part of a mapping
(`tree[stage]`, `tree.get(stage)`) be merged so into one of which the same function makes a configuration class that has
other classes of the trainer for sections. Where a section has a section of its own (a field of a class that has such
fields, or a mapping in a mapping of a section in a YAML file), a function that is called after merging or configuring
must not go through a mapping's items and put each into the other's one level deep (`merged[key].update(value)`,
`{**merged[key], **value}`).

The content of a whole file (`yaml.safe_load`, `json.load`, `tomllib.load`, through names, arguments and what functions
give back) must not be merged so over another file's, or over what a loop has read before, where the result becomes a
configuration class with sections, or where both are YAML and two YAML files in the source's folder have a mapping under
the same key; nor over a mapping of mappings that is written down, or over what `asdict` gives of such a class. Merges
are `{**a, **b}`, `a | b`, `dict(a, **b)`, `a.update(b)`, `ChainMap(b, a)` and `for key, value in b.items(): a[key] =
value`, in functions that merge no section besides.

Statistic: such merges, outside of functions that call themselves, unless that is how they read the file below. Allowed:
0.

False-alarm rate: 0 where what is merged is what was nested.

## Example

Bad:

```python
content = {**content, **parse_overrides(pairs)}
```

Good:

```python
def merged(content, overrides):
    for key, value in overrides.items():
        content[key] = merged(content.get(key, {}), value) if isinstance(value, dict) else value
    return content
```

## How to fix

Merge section by section, or set each dotted key in the configuration itself.

## Known limits

Overrides are known by their name, or as a call of what nests them, parts of a mapping by their form.

## Sources

A configuration fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.file_contents import READS, share_sections, whole_files
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.section_merges import has_field_of, has_inner_sections, one_level
from gradgate.checks.source.settings import yaml_files
from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of
from gradgate.checks.source.values import Names, assignments_in, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG432", "override-replaces-section"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
OVERRIDES = re.compile(r"overrid|overwrit|dotlist|cli", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for merges of nested overrides at the top level alone."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    functions = [(file, function, own_nodes(function)) for file in files for function, _ in file.functions]
    nesting = {function.name for _, function, nodes in functions if _nests(nodes)}
    classes = {node.name: node for file in files for node in file.nodes if isinstance(node, ast.ClassDef)}
    whole = {name for name, node in classes.items() if has_field_of(node, classes)}
    read = list(yaml_files(subject))
    has_inner = has_inner_sections(classes, [content for *_, content in read])
    found = []
    for file, function, nodes in functions:
        if not _calls_itself(function, nodes):
            if has_inner and file.has(".items()"):
                found += [_finding(file, function, node, "an inner section") for node in one_level(function, nodes)]
            nested = list(_merges(nodes, nesting)) if nesting else []
            nested = nested if nested and _reached(file, function, files, nesting) else []
            merges = {id(node): node for node in (*nested, *_of_parts(function, nodes, whole))}
            found += [_finding(file, function, node) for node in merges.values()]
    if any(file.has(*READS) for file in files):
        shares = share_sections([(path, content) for path, _, content in read])
        seen = {(each.culprit.file, each.culprit.line) for each in found if each.culprit is not None}
        laid = whole_files(places_in(files), whole, shares)
        found += [_of_files(place, node) for place, node in laid if (str(place.file.path), node.lineno) not in seen]
    return Outcome(tuple(found), {"sections_replaced": len(found)}, {"sections_replaced": 0})


def _reached(file: File, function: Function, files: tuple[File, ...], nesting: set[str]) -> bool:
    """Whether what is nested may come to a function: its file speaks of it, or one that does calls the function."""
    if file.has(*nesting):
        return True
    speaking = () if function.name.startswith("__") else (other for other in files if other.has(*nesting))
    return any(other.has(f"{function.name}(") for other in speaking)


def _nests(nodes: list[ast.AST]) -> bool:
    """Whether a function splits dotted keys and nests what stands under them."""
    calls = [
        (node.func.attr, node.args)
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
    ]
    splits = any(
        name in ("split", "rsplit", "partition", "rpartition")
        and any(isinstance(given, ast.Constant) and given.value == "." for given in args)
        for name, args in calls
    )
    fills = any(name == "setdefault" and isinstance(args[-1], ast.Dict) for name, args in calls)
    makes = any(isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and _is_entry(node) for node in nodes)
    return splits and (fills or makes)


def _is_entry(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Subscript) for target in node.targets)


def _merges(nodes: list[ast.AST], nesting: set[str]) -> Iterator[ast.expr]:
    """Mappings that overrides are put into at the top level."""
    for node in nodes:
        if isinstance(node, ast.Dict):
            parts = [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
            if len(parts) > 1 and _are_overrides(parts[-1], nesting):
                yield node
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            yield from [node] if _are_overrides(node.right, nesting) else []
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(".update"):
            yield from [node] if any(_are_overrides(given, nesting) for given in node.args[:1]) else []


def _of_parts(function: Function, nodes: list[ast.AST], whole: set[str]) -> Iterator[ast.expr]:
    """Mappings that a part of another is put into, and of which a configuration with sections is made."""
    if not whole:
        return
    names = Names(function)
    made = {text for node in nodes if isinstance(node, ast.Call) for text in _made_of(node, whole)}
    held = {id(names.held(part)): dotted(target) for target, part in assignments_in(nodes)}
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
            into, part = dotted(node.func.value), next(iter(node.args), None)
        elif isinstance(node, ast.Dict) and len(node.keys) > 1 and node.keys[-1] is None:
            into, part = held.get(id(node), ast.unparse(node)), node.values[-1]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            into, part = held.get(id(node), ast.unparse(node)), node.right
        else:
            continue
        if into in made and part is not None and _is_part(names.held(part)):
            yield node


def _made_of(call: ast.Call, whole: set[str]) -> Iterator[str]:
    """What a configuration with sections is made of."""
    maker = dotted(call.func)
    if maker.rpartition(".")[2] in whole:
        yield from (ast.unparse(word.value) for word in call.keywords if word.arg is None)
    elif maker.rpartition(".")[0].rpartition(".")[2] in whole and call.args:
        yield ast.unparse(call.args[0])


def _is_part(node: ast.expr) -> bool:
    """Whether something is an item of a mapping, by a key that may be any."""
    if isinstance(node, ast.BoolOp):
        return _is_part(node.values[0])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
        return bool(node.args)
    return isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice)


def _are_overrides(node: ast.expr, nesting: set[str]) -> bool:
    name = dotted(node.func if isinstance(node, ast.Call) else node).rpartition(".")[2]
    return bool(OVERRIDES.search(name)) or (isinstance(node, ast.Call) and name in nesting)


def _calls_itself(function: Function, nodes: list[ast.AST]) -> bool:
    called = (dotted(node.func) for node in nodes if isinstance(node, ast.Call))
    return any(name.removeprefix("self.") == function.name for name in called)


def _finding(file: File, function: Function, node: ast.expr | ast.stmt, what: str = "a section") -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() merges nested overrides by `{ast.unparse(node)}`: {what} of which one key is "
        "given loses all others; allowed: none",
        culprit=file.at(node, function.name),
        fix="merge section by section",
    )


def _of_files(place: Place, node: ast.expr | ast.stmt) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name or 'the file'} lays a file's content over another mapping by `{ast.unparse(node)}`: a "
        "section of which one key is given loses all others; allowed: none",
        culprit=place.file.at(node, place.name),
        fix="merge section by section",
    )
