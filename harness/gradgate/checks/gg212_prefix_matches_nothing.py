"""Parameters are chosen by a prefix that none of them has.

## What it detects

`name.startswith(("trunk.embed.", "heads."))` over the parameters of a model whose trunk calls its embeddings
`embeddings`: nothing is called `trunk.embed.`.

## Why it matters

What was to be trained stays frozen, what was to be frozen trains, or a group of the optimizer is empty. Nothing fails:
a prefix that matches nothing looks like one whose parameters are elsewhere.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Prefixes are texts, or
tuples of them, with which the names of `named_parameters()`, `named_modules()` or a `state_dict()` begin, followed
through names, constants of other files and what callers give. A prefix of two parts or more is a finding where its
first part is an attribute of one of the trainer's modules, the class of that attribute is one of the trainer's that has
no base but torch's, and no attribute of that class is called as the second part says.

Statistic: such prefixes; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
class Trunk(nn.Module):
    def __init__(self):
        self.embeddings = nn.Embedding(64, 16)

trained = ("trunk.embed.", "heads.")
```

Good:

```python
trained = ("trunk.embeddings.", "heads.")
```

## How to fix

Write the attribute's name, and raise where a prefix matches no parameter.

## Known limits

Parts of a library's model are not known, nor are numbers of blocks and what stands behind them.

## Sources

PyTorch, `torch.nn.Module.named_parameters`: names are attributes, joined by dots.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.frozen_parts import attributes_of
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, called_name, files_of, given_by
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG212", "prefix-matches-nothing"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
NAMES_OF = ("named_parameters(", "named_modules(", "state_dict(")
HOPS = 3  # names and calls that are followed

Text = tuple[Place, ast.Constant]


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold prefixes of parameters against the attributes that modules have."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    able = any(file.has("startswith(") and file.has(*NAMES_OF) for file in files)
    findings = tuple(_findings(places_in(files))) if able else ()
    return Outcome(findings, {"prefixes": len(findings)}, {"prefixes": 0})


def _findings(places: Places) -> Iterator[Finding]:
    told = set[int]()
    for place in places.functions:
        if not place.file.has(*NAMES_OF):
            continue
        for call in place.nodes:
            if called_name(call) == "startswith" and isinstance(call, ast.Call) and call.args:
                for where, text in _texts(call.args[0], place, places, HOPS):
                    if id(text) not in told and (part := _unknown(str(text.value), places)):
                        told.add(id(text))
                        yield _finding(where, text, part)


def _texts(node: ast.expr, place: Place, places: Places, hops: int) -> Iterator[Text]:
    """The texts that an expression may be, each with where it is written."""
    node = place.names.held(node)
    if isinstance(node, ast.Constant):
        yield from [(place, node)] if isinstance(node.value, str) else []
    elif isinstance(node, ast.Tuple | ast.List):
        for part in node.elts:
            yield from _texts(part, place, places, hops)
    elif isinstance(node, ast.Call) and called_name(node) == "tuple":
        for part in given_by(node):
            yield from _texts(part, place, places, hops)
    elif isinstance(node, ast.Name) and hops:
        if node.id in place.parameters:
            for caller, value in places.given_to(place, node.id) or ():
                yield from _texts(value, caller, places, hops - 1)
        else:
            for top in (each for each in places.all if each.is_top):
                for target, value in assignments_in(top.nodes):
                    if isinstance(target, ast.Name) and target.id == node.id:
                        yield from _texts(value, top, places, hops - 1)


def _unknown(prefix: str, places: Places) -> str:
    """The attribute that a prefix names and its module does not have; empty: it has, or nobody knows."""
    first, _, rest = prefix.partition(".")
    second, ends, _ = rest.partition(".")
    known = attributes_of(places, first) if second.isidentifier() else set()
    if not known or second in known or (not ends and any(name.startswith(second) for name in known)):
        return ""
    return f"{first}.{second}"


def _finding(place: Place, text: ast.Constant, part: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"no parameter's name begins with {text.value!r}: nothing is called `{part}`; allowed: names there are",
        culprit=place.file.at(text, place.name),
        fix="write the attribute's name, and raise where a prefix matches no parameter",
    )
