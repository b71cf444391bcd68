"""Files are numbered without padding and sorted by name: `step-100` comes before `step-20`, and the newest is lost.

## What it detects

Names like `f"step-{n}.pt"` are written, and elsewhere such files are listed and sorted by name, of which the last is
resumed from, or the first are deleted.

## Why it matters

As long as all numbers have as many digits, everything is right. From step 1000 on the newest file is deleted first
(`step-1000` sorts before `step-900`), and a run that is resumed goes back to an old one.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A name that holds a number
is a format (`f"..."`, `%d`, `.format`, `+ str(...)`) with a step, an epoch, an update or a checkpoint in front of the
number or as the number, without a width. A list of files is `listdir`, `glob`, `rglob` or `iterdir`, through filters,
and joined with a folder. It is sorted by name by `sorted`, `.sort`, `max` or `min` without a key, or with one that is
the name, or a part of it that is a text (`name.split("_")[1]`, `match.group(1)`); functions that return it are
followed. Findings are those of which an index, a slice, a star or `.pop` takes some, or a loop that goes backwards
gives back the first, and whose list names what stands in front of the number; where it names nothing, those that are
called after checkpoints and have the same ending. Statistic: such sorts; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
torch.save(state, folder / f"step-{step}.pt")
...
for old in sorted(folder.glob("step-*.pt"))[:-keep]:
    old.unlink()
```

Good:

```python
for old in sorted(folder.glob("step-*.pt"), key=lambda path: int(path.stem.removeprefix("step-")))[:-keep]:
    old.unlink()
```

## How to fix

Sort by the number, or write it with a width (`{step:08d}`).

## Known limits

Names that are put together in another way, and lists that go through an argument, are not followed.

## Sources

The `_sorted_checkpoints` of transformers' Trainer, which sorts by the number.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of, names_in
from gradgate.checks.source.values import SPLITS, Names, assignments_in, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG618", "newest-by-name"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LISTS = ("listdir", "glob", "iglob", "rglob", "iterdir")
SAME_ORDER = ("list", "tuple", "reversed", "iter", "enumerate")
TIME = re.compile(r"step|epoch|iter|update|round|episode|ckpt|checkpoint|snapshot", re.IGNORECASE)
KEPT = re.compile(r"ckpt|checkpoint|snapshot", re.IGNORECASE)
IN_FRONT = re.compile(r"([A-Za-z]{2,})[-_=.]?$")
WIDTH = re.compile(r"0\d|zfill|rjust|\.\d|[feg%]$")
NUMBER = re.compile(r"%d|\{(\w*)(:d)?\}")
FIX = "sort by the number that stands in the name, or write it with a width (`{step:08d}`)"


@dataclass(frozen=True)
class _Name:
    """A file's name with a number in it.

    Args:
        word: what stands in front of the number.
        ending: `.pt`, or nothing.
        text: how it is written.
    """

    word: str
    ending: str
    text: str


@dataclass(frozen=True)
class _Sorted:
    """Files, sorted by name.

    Args:
        node: where.
        words: the texts that the list is chosen by.
        about: the list as it is written, and the function's name.
    """

    file: File
    function: Function
    node: ast.Call
    words: tuple[str, ...]
    about: str


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold how files are named against how they are sorted."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    names = {name.text: name for file in files for node in file.nodes for name in _named(node)}
    findings = tuple(_findings(files, list(names.values()))) if names else ()
    return Outcome(findings, {"sorts_by_name": len(findings)}, {"sorts_by_name": 0})


def _named(node: ast.AST) -> Iterator[_Name]:
    """The names with a number without a width that an expression makes."""
    if isinstance(node, ast.JoinedStr):
        for front, value, behind in zip(node.values, node.values[1:], [*node.values[2:], None], strict=False):
            if isinstance(front, ast.Constant) and isinstance(value, ast.FormattedValue):
                after = behind.value if isinstance(behind, ast.Constant) else ""
                if value.format_spec is None or not WIDTH.search(ast.unparse(value.format_spec).strip("f'\"")):
                    yield from _name(front.value, value.value, after, node)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
        yield from _formatted(node.left.value, node.right, node)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        front = node.left.right if isinstance(node.left, ast.BinOp) else node.left
        if isinstance(front, ast.Constant) and isinstance(node.right, ast.Call) and dotted(node.right.func) == "str":
            yield from _name(front.value, node.right, "", node)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = getattr(node.func.value, "value", None)
        yield from (name for given in node.args[:1] for name in _formatted(text, given, node))


def _formatted(text: object, number: ast.expr, node: ast.AST) -> Iterator[_Name]:
    if isinstance(text, str) and (place := NUMBER.search(text)):
        yield from _name(text[: place.start()], number, text[place.end() :], node)


def _name(front: object, number: ast.expr, behind: object, node: ast.AST) -> Iterator[_Name]:
    word = IN_FRONT.search(str(front))
    if word and " " not in f"{front}{behind}" and TIME.search(f"{word[1]} {(told := ast.unparse(number))}"):
        ending = re.match(r"\.\w+$", str(behind))
        if "zfill" not in told:
            yield _Name(word[1].lower(), ending[0] if ending else "", ast.unparse(node))


def _findings(files: tuple[File, ...], names: list[_Name]) -> Iterator[Finding]:
    functions = [(file, function) for file in files for function, _ in file.functions]
    counts = Counter(function.name for _, function in functions)
    lists = [file for file in files if file.has(*LISTS)]
    given: dict[str, _Sorted] = {}
    for file, function in functions:
        if file in lists and counts[function.name] == 1 and (found := _Reader(file, function, {}).returned()):
            given[function.name] = found
    asks = [file for file in files if file in lists or file.has(*given)]
    seen: set[int] = set()
    for file, function in functions:
        for taken, told in _Reader(file, function, given).taken() if file in asks else ():
            name = next((name for name in names if _fits(name, taken)), None)
            if name is not None and id(taken.node) not in seen:
                seen.add(id(taken.node))
                yield _finding(taken, told, name)


def _fits(name: _Name, found: _Sorted) -> bool:
    """Whether files of that name are among those that are sorted."""
    words = [word for word in found.words if re.search(r"[A-Za-z]{2}", re.sub(r"\.\w+\$?$", "", word))]
    if words:
        return any(name.word in word.lower() for word in words)
    endings = [match[0] for word in found.words if (match := re.search(r"\.\w+$", word))]
    return bool(KEPT.search(found.about)) and (not endings or name.ending in endings)


class _Reader:
    """What a function lists and sorts.

    Args:
        given: the functions that return files which are sorted by name.
    """

    def __init__(self, file: File, function: Function, given: dict[str, _Sorted]) -> None:
        self.file, self.function, self.given = file, function, given
        self.nodes = own_nodes(function)
        self.names = Names(function)

    def returned(self) -> _Sorted | None:
        """Where the files were sorted that the function returns."""
        values = (node.value for node in self.nodes if isinstance(node, ast.Return) and node.value is not None)
        return next(filter(None, map(self.sorted_by_name, values)), None)

    def taken(self) -> Iterator[tuple[_Sorted, str]]:
        """The sorts of which some are taken, and how that is written."""
        for node in self.nodes:
            found = None
            if isinstance(node, ast.Subscript) and _takes(node.slice):
                found = self.sorted_by_name(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
                found = self.sorted_by_name(node.func.value)
            elif isinstance(node, ast.Call) and dotted(node.func) in ("max", "min"):
                found = self._sort(node)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple | ast.List):
                starred = any(isinstance(part, ast.Starred) for part in node.targets[0].elts)
                found = self.sorted_by_name(node.value) if starred else None
            elif isinstance(node, ast.For) and self._takes_first(node):
                found = self.sorted_by_name(node.iter)
            if found is not None:
                yield found, ast.unparse(node).partition("\n")[0]

    def _takes_first(self, loop: ast.For) -> bool:
        """Whether a loop goes backwards through what is sorted, and gives back the first that will do."""
        gives = (node.value for part in loop.body for node in ast.walk(part) if isinstance(node, ast.Return))
        held = self.names.held(loop.iter)
        backwards = "reverse" in f"{ast.unparse(loop.iter)} {ast.unparse(held)}"
        return backwards and any(value is not None and dotted(loop.target) in names_in(value) for value in gives)

    def sorted_by_name(self, node: ast.expr, hops: int = 6) -> _Sorted | None:
        """Where the files that an expression holds were sorted by their names."""
        if hops == 0:
            return None
        if isinstance(node, ast.Name):
            held = self.names.held(node)
            return self._sorted_in_place(node, held) or (
                self.sorted_by_name(held, hops - 1) if held is not node else None
            )
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            return self.sorted_by_name(node.generators[0].iter, hops - 1)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and not _takes(node.slice):
            return self.sorted_by_name(node.value, hops - 1)
        if not isinstance(node, ast.Call):
            return None
        called = dotted(node.func)
        if called == "sorted":
            return self._sort(node)
        if called in SAME_ORDER and node.args:
            return self.sorted_by_name(node.args[0], hops - 1)
        return self.given.get(called.rpartition(".")[2])

    def _sort(self, call: ast.Call) -> _Sorted | None:
        """A sort, or a maximum, of files without a key, or by a key that is a name."""
        keys = [word.value for word in call.keywords if word.arg == "key"]
        if len(call.args) != 1 or not all(map(_is_name, keys)):
            return None
        held = self.names.held(call.args[0])
        within = held.generators[0].iter if keys and isinstance(held, ast.ListComp | ast.GeneratorExp) else call.args[0]
        return self._of(call, self._listed(within))

    def _sorted_in_place(self, name: ast.Name, held: ast.expr) -> _Sorted | None:
        for node in self.nodes:
            if isinstance(node, ast.Call) and dotted(node.func) == f"{name.id}.sort" and not node.args:
                keyed = all(_is_name(word.value) for word in node.keywords if word.arg == "key")
                if keyed and held.lineno <= node.lineno < name.lineno:
                    return self._of(node, self._listed(held))
        return None

    def _of(self, node: ast.Call, listed: list[ast.expr] | None) -> _Sorted | None:
        if listed is None:
            return None
        texts = tuple(text for part in listed for text in self._texts(part))
        about = " ".join([self.function.name, ast.unparse(node), *map(ast.unparse, listed)])
        return _Sorted(self.file, self.function, node, texts, about)

    def _listed(self, node: ast.expr, hops: int = 6) -> list[ast.expr] | None:
        """What says which files an expression lists; None: it lists none, or something else of them than names."""
        held = self.names.held(node)
        if held is not node:
            return self._listed(held, hops - 1) if hops else None
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            part = node.generators[0]
            inside = self._listed(part.iter, hops - 1) if hops and _keeps(node.elt, dotted(part.target)) else None
            return None if inside is None else [*inside, *part.ifs]
        if not isinstance(node, ast.Call):
            return None
        called = called_name(node)
        if called in LISTS:
            return [node]
        if called in (*SAME_ORDER, "set", "filter") and node.args:
            inside = self._listed(node.args[-1], hops - 1)
            return None if inside is None else [*inside, *node.args[:-1]]
        return None

    def _texts(self, node: ast.expr) -> Iterator[str]:
        """The texts of an expression, and of the constants of the file that it names."""
        held = {dotted(target): value for target, value in assignments_in(self.file.tree.body)}
        named = (held[dotted(part)] for part in ast.walk(node) if isinstance(part, ast.Name) and part.id in held)
        for part in chain(self.names.parts(node), *map(ast.walk, named)):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def _keeps(part: ast.expr, name: str) -> bool:
    """Whether an element is the file's name, or its path, or a part of it."""
    if _is_piece(part):
        return any(each.partition(".")[0] == name for each in names_in(part))
    if isinstance(part, ast.Call):
        joined = called_name(part) in ("join", "str", "Path", "joinpath", "basename")
        return joined and any(_keeps(given, name) for given in part.args)
    if isinstance(part, ast.BinOp):
        return isinstance(part.op, ast.Div) and _keeps(part.right, name)
    if isinstance(part, ast.JoinedStr):
        return isinstance(part.values[-1], ast.FormattedValue) and _keeps(part.values[-1].value, name)
    return dotted(part) in (name, f"{name}.name", f"{name}.stem")


def _is_piece(part: ast.expr) -> bool:
    """Whether an expression is a part of a text that still is one: `name.split("_")[1]`, `match.group(1)`."""
    if isinstance(part, ast.Subscript):
        of = part.value
        return isinstance(of, ast.Call) and isinstance(of.func, ast.Attribute) and of.func.attr in SPLITS
    return isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "group"


def _is_name(key: ast.expr) -> bool:
    """Whether a key is a file's name: `str`, `lambda path: path.name`."""
    if isinstance(key, ast.Lambda):
        named = isinstance(key.body, ast.Attribute) and key.body.attr in ("name", "stem")
        return named or _is_piece(key.body) or (isinstance(key.body, ast.Call) and _is_name(key.body.func))
    return dotted(key) in ("str", "os.path.basename")


def _takes(index: ast.expr) -> bool:
    """Whether an index takes some of a list: by a number, or up to or from a place."""
    if isinstance(index, ast.Slice):
        return index.lower is not None or index.upper is not None
    number = index.operand if isinstance(index, ast.UnaryOp) else index
    return isinstance(number, ast.Constant) and isinstance(number.value, int)


def _finding(found: _Sorted, taken: str, name: _Name) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{found.function.name}() sorts files by name, of which `{taken}` takes some, and {name.text} has no "
        f"width: `{name.word}` 100 comes before 20; allowed: none",
        culprit=found.file.at(found.node, found.function.name),
        fix=FIX,
    )
