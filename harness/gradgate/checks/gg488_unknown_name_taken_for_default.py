"""A name that nothing knows is taken for the default: a misspelt setting runs something else.

## What it detects

`WEIGHTINGS.get(config.weighting, UniformWeighting)`; a registry that is made with `default="uniform"`; an `if` over the
names of a setting whose `else` is one of the choices, where nothing refuses what is none of them.

## Why it matters

`weighting: critc` trains the control group without a word, under the experiment's name. Its curves look well, and the
comparison that they are for is of a run with itself.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is a setting, read
off a configuration, or a name, a parameter or an attribute that holds one, which

* is looked up by `get` with a default that is a function or a class of the trainer's own, a class or a type of torch, a
  `lambda`, or an item of the same table;
* is looked up in a registry of the trainer's own that is made with a text as its `default`, and that goes by it;
* is compared with two or more texts in an `if` and its `elif`, in branches that return one behind the other, in a
  `match` or in a conditional expression, each of which returns, or assigns the same name, where what is left returns or
  assigns as well, and does not raise.

Not so where the setting's names are declared (`Literal`, an enumeration, `choices`, a pattern or a validator), where a
function that raises, or is named after checking, asks whether it is among these names or in that table, and where it is
looked up there by `[...]`. Devices, levels, commands and paths are left out. Statistic: such settings; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
return WEIGHTINGS.get(config.weighting, UniformWeighting)
```

Good:

```python
if config.weighting not in WEIGHTINGS:
    raise ValueError(f"unknown weighting {config.weighting!r}, known: {sorted(WEIGHTINGS)}")
return WEIGHTINGS[config.weighting]
```

## How to fix

Look up by `[...]`, or raise where the name is none of them; give the setting's own default where it is declared.

## Known limits

Settings that are read by other names than a configuration's, and names that a library refuses, are not known. A setting
that is held against names of which it may have none is GG430's.

## Sources

`torch.nn.functional._get_activation_fn`, which raises on a name that it does not know.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.setting_names import Refused, registered_words, setting_of, words_of
from gradgate.checks.source.trainer import NONE, dotted, files_of, given_for
from gradgate.checks.source.values import assignments_in, blocks_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.named_values import last_part, tables_in

CODE, NAME = "GG488", "unknown-name-taken-for-default"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LOOKS_UP = ("get", "create", "build", "make", "resolve", "lookup", "find")
OTHER = re.compile(
    r"device|backend|level|command|cmd|rank|path|dir$|file|url|host|env|platform|accelerator|format|key$|mode$|direction"
    r"|dtype|^split$|^stage$|side$|interval|strategy$|unit$",
    re.IGNORECASE,
)
LEAST = 2  # comparisons of a setting with names

_Found = tuple[ast.AST, ast.expr, set[str], str, str]  # where, what is asked, its words, the table, what is said


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for names that are looked up with a default."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    own = places_in(files)
    tables: dict[str, list[str]] = {}
    for name, held in (*registered_words(files), *(table for file in files for table in tables_in(file.nodes))):
        tables.setdefault(name, []).extend(held)
    found = []
    refused: Refused | None = None
    registries = _with_default(own)
    for place in own.functions:
        for node, asked, words, table, told in (*_looked_up(place, own, tables, registries), *_chosen(place)):
            key = setting_of(asked, place, own)
            if not key or OTHER.search(key):
                continue
            refused = refused or Refused(files, own, tables)
            if not refused.names(key, words, table):
                found.append(_finding(place, node, key, told))
    return Outcome(tuple(found), {"settings": len(found)}, {"settings": 0})


def _with_default(own: Places) -> dict[str, str]:
    """The registries that are made with a text as their default, by name, with that text."""
    found: dict[str, str] = {}
    for place in own.all:
        for target, value in assignments_in(place.nodes) if place.file.has("default") else ():
            default = given_for(value, "default", 9) if isinstance(value, ast.Call) else None
            if isinstance(value, ast.Call) and isinstance(default, ast.Constant) and isinstance(default.value, str):
                made = own.classes.get(last_name(value.func), [])
                if any("[self.default]" in text or "[self._default]" in text for text in map(ast.unparse, made)):
                    found[last_name(target)] = default.value
    return found


def _looked_up(place: Place, own: Places, tables: dict[str, list[str]], registries: dict[str, str]) -> Iterator[_Found]:
    for call in (node for node in place.nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name not in LOOKS_UP or not call.args or isinstance(call.args[0], ast.Constant):
            continue
        table = call.func.value if isinstance(call.func, ast.Attribute) else call
        words = words_of(ast.Tuple([key for key in table.keys if key])) if isinstance(table, ast.Dict) else set()
        words |= set(tables.get(last_part(table), ()))
        default = given_for(call, "default", 1)
        if default is not None and name == "get" and _is_choice(default, table, place, own):
            told = f"`{ast.unparse(default)}` where `{last_part(table) or 'the table'}` has no such name"
            yield call, call.args[0], words, last_part(table), told
        elif last_part(table) in registries:
            told = f"`{registries[last_part(table)]}` where `{last_part(table)}` has no such name"
            yield call, call.args[0], words, last_part(table), told


def _is_choice(default: ast.expr, table: ast.expr, place: Place, own: Places) -> bool:
    """Whether a default is what such a table has: a function, a class, a type, or an item of it."""
    if isinstance(default, ast.Lambda):
        return True
    if isinstance(default, ast.Subscript):
        return ast.unparse(default.value) == ast.unparse(table)
    name = dotted(default)
    if not name or name in place.parameters or place.names.held(default) is not default:
        return False
    last = name.rpartition(".")[2]
    return name.startswith(("torch.", "nn.", "F.")) or bool(own.classes.get(last)) or bool(own.named(last))


def _chosen(place: Place) -> Iterator[_Found]:
    """Settings that are compared with names one by one, where what is left is a choice as well."""
    if not place.file.has('== "', "== '", "case ", "in (", "in [", "in {"):
        return
    inner: set[int] = set()  # branches and expressions that are part of one
    for block in (place.function.body, *blocks_in(place.nodes)):
        for at, statement in enumerate(block):
            if isinstance(statement, ast.If) and id(statement) not in inner:
                yield from _of_branches(block, at, inner)
            elif isinstance(statement, ast.Match):
                yield from _of_match(statement)
    for node in place.nodes:
        if isinstance(node, ast.IfExp) and id(node) not in inner:
            tests, rest = [node.test], node.orelse
            while isinstance(rest, ast.IfExp):
                inner.add(id(rest))
                tests, rest = [*tests, rest.test], rest.orelse
            yield from _one(node, tests, f"`{ast.unparse(rest)}` where it is none of them")


def _of_branches(block: list[ast.stmt], at: int, inner: set[int]) -> Iterator[_Found]:
    first = block[at]
    tests: list[ast.expr] = []
    does: list[str] = []
    rest: list[ast.stmt] = []
    while at < len(block):
        statement = block[at]
        while isinstance(statement, ast.If):
            inner.add(id(statement))
            tests.append(statement.test)
            does.append(_does(statement.body))
            rest = statement.orelse
            if len(rest) == 1 and isinstance(rest[0], ast.If):
                statement = rest[0]
            else:
                break
        if rest or not isinstance(block[at], ast.If) or does[-1] != "return":
            break
        at += 1
        if at < len(block) and not (isinstance(block[at], ast.If) and _asked(block[at].test) == _asked(tests[0])):  # type: ignore[attr-defined]
            rest = block[at:]
            break
    if rest and len({*does, _does(rest)}) == 1 and does[0]:
        yield from _one(first, tests, f"what line {rest[0].lineno} does where it is none of them")


def _does(body: list[ast.stmt]) -> str:
    """What a branch comes to: `return` of something, or the name that it assigns last; empty: neither."""
    if any(isinstance(node, ast.Raise) for statement in body for node in ast.walk(statement)):
        return ""
    last = body[-1]
    if isinstance(last, ast.Return):
        nothing = last.value is None or (isinstance(last.value, ast.Constant) and last.value.value is None)
        return "" if nothing else "return"
    return next((dotted(target) for target, _ in assignments_in([last])), "")


def _of_match(statement: ast.Match) -> Iterator[_Found]:
    *named, last = statement.cases
    words = set().union(*(words_of(case.pattern) for case in named))
    wild = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
    does = {_does(case.body) for case in statement.cases}
    if wild and len(named) >= LEAST and len(does) == 1 and does != {""}:
        told = f"what line {last.body[0].lineno} does where it is none of them"
        yield statement, statement.subject, words, "", told


def _one(node: ast.AST, tests: list[ast.expr], told: str) -> Iterator[_Found]:
    asked = {_asked(test) for test in tests}
    words = set().union(*(words_of(test.comparators[0]) for test in tests if isinstance(test, ast.Compare)))
    if len(asked) == 1 and "" not in asked and len(tests) >= LEAST and isinstance(tests[0], ast.Compare):
        yield node, tests[0].left, words, "", told


def _asked(test: ast.expr) -> str:
    """What is compared with texts, as it is written; empty: nothing is."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq | ast.In):
        return ""
    against = test.comparators[0]
    each = against.elts if isinstance(against, ast.Tuple | ast.List | ast.Set) else [against]
    texts = all(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in each)
    return ast.unparse(test.left) if texts else ""


def _finding(place: Place, node: ast.AST, key: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() takes {told}: the setting `{key}` may be misspelt, and nothing refuses it; allowed: 0",
        culprit=place.file.at(node, place.name),
        fix="look up by [...], or raise where the name is none of those that are known",
    )
