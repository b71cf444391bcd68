"""Mechanical fixes: small edits of the text at a finding's line, which keep everything else as it stands."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradgate.core.finding import Finding
from gradgate.scan.nodes import walk
from gradgate.scan.operations import table
from gradgate.scan.sources import UnreadableError, read_bytes

_SYMBOLS: dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.MatMult: "@",
    ast.Mod: "%",
}


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace a stretch of a file: byte offsets into its UTF-8 text."""

    start: int
    end: int
    text: str


@dataclass(slots=True)
class Fixed:
    """What was done, or could be."""

    count: int = 0
    diffs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Text:
    """A file's text with its tree, addressed as ast addresses it: lines from 1, columns in UTF-8 bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.tree = ast.parse(data.decode("utf-8"))
        self.starts = [0]
        for line in data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def start(self, node: Any) -> int:
        """Where a node begins."""
        line: int = node.lineno
        return self.starts[line - 1] + int(node.col_offset)

    def end(self, node: Any) -> int:
        """Where a node ends."""
        line: int = node.end_lineno
        return self.starts[line - 1] + int(node.end_col_offset)

    def of(self, node: ast.AST) -> str:
        """A node's text."""
        return self.data[self.start(node) : self.end(node)].decode("utf-8")


def apply_fixes(findings: Iterable[Finding], *, write: bool) -> Fixed:
    """Fix what can be fixed without judgement.

    Args:
        findings: as the scan gave them; those without a mechanical fix are left.
        write: whether to change the files; else only the diff is made.

    Returns:
        How many findings are fixed, and the diffs. A file that is not UTF-8, or has changed meanwhile so that it does
        not parse, is a problem; it stays as it was.
    """
    by_file: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.culprit is not None and finding.culprit.file.endswith((".py", ".pyi")):
            by_file.setdefault(finding.culprit.file, []).append(finding)
    fixed = Fixed()
    for file, found in sorted(by_file.items()):
        _fix_file(Path(file), found, fixed, write=write)
    return fixed


def _fix_file(path: Path, findings: Sequence[Finding], fixed: Fixed, *, write: bool) -> None:
    try:
        data = read_bytes(path)
        if data.startswith(b"\xef\xbb\xbf"):
            raise UnicodeError("it begins with a byte order mark")
        text = Text(data)
    except (UnreadableError, UnicodeError, SyntaxError, ValueError) as error:
        fixed.problems.append(f"{path}: not fixed: {error}")
        return
    edits: list[Edit] = []
    for finding in findings:
        mine = list(_edits(text, finding))
        if mine and not any(one.start < other.end and other.start < one.end for one in mine for other in edits):
            edits += mine
            fixed.count += 1
    if not edits:
        return
    new = data
    for edit in sorted(edits, key=lambda entry: -entry.start):
        new = new[: edit.start] + edit.text.encode("utf-8") + new[edit.end :]
    try:
        ast.parse(new)
    except SyntaxError:
        fixed.problems.append(f"{path}: not fixed: the result would not parse, which is a bug of gradgate")
        return
    old_lines, new_lines = (part.decode("utf-8").splitlines(keepends=True) for part in (data, new))
    fixed.diffs.append(
        "".join(_ended(line) for line in difflib.unified_diff(old_lines, new_lines, f"a/{path}", f"b/{path}"))
    )
    if write:
        _replace(path, new, fixed)


def _ended(line: str) -> str:
    return line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _replace(path: Path, data: bytes, fixed: Fixed) -> None:
    """Write in one rename, with the file's own mode."""
    target = path.resolve()
    temporary = target.with_name(target.name + ".gradgate-fix")
    try:
        temporary.write_bytes(data)
        os.chmod(temporary, target.stat().st_mode & 0o7777)  # noqa: PTH101
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        fixed.problems.append(f"{path}: not written: {error.strerror}")


def _edits(text: Text, finding: Finding) -> Iterator[Edit]:
    maker = _FIXES.get(finding.code)
    line = finding.culprit.line if finding.culprit else 0
    if maker is None:
        return
    for function, node in _at_line(text.tree, line):
        found = list(maker(text, node, function, finding))
        if found:
            yield from found
            return


def _at_line(tree: ast.Module, line: int) -> Iterator[tuple[ast.AST | None, ast.AST]]:
    """Statements and expressions that begin on a line, outer ones first, with their function."""
    stack: list[tuple[ast.AST | None, Any]] = [(None, tree)]
    while stack:
        function, node = stack.pop(0)
        if getattr(node, "lineno", 0) == line:
            yield function, node
        inner = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        stack += [
            (inner, child)
            for child in ast.iter_child_nodes(node)
            if not hasattr(child, "lineno") or child.lineno <= line <= (getattr(child, "end_lineno", None) or line)
        ]


def _out_of_place(text: Text, node: ast.AST, function: ast.AST | None, finding: Finding) -> Iterator[Edit]:
    """`x += y` -> `x = x + y`; `x.f_(...)` -> `x = x.f(...)` as a statement, `x.f(...)` where its value is used."""
    if (
        isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Name)
        and type(node.op) in _SYMBOLS
        and _is_local(function, node.target.id)
    ):
        name, value = node.target.id, text.of(node.value)
        bare = isinstance(node.value, ast.Name | ast.Constant | ast.Call | ast.Attribute | ast.Subscript)
        value = value if bare else f"({value})"
        yield Edit(text.start(node), text.end(node), f"{name} = {name} {_SYMBOLS[type(node.op)]} {value}")
    elif isinstance(node, ast.Expr) and _is_inplace(node.value) and _is_local(function, _root(node.value)):
        yield Edit(text.start(node), text.start(node), f"{_root(node.value)} = ")
        yield _drop_underscore(text, node.value)
    elif (
        isinstance(node, ast.Assign)
        and _is_inplace(node.value)
        and any(isinstance(target, ast.Name) and target.id == _root(node.value) for target in node.targets)
    ) or (isinstance(node, ast.Return) and node.value is not None and _is_inplace(node.value) and _root(node.value)):
        yield _drop_underscore(text, node.value)


def _is_inplace(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.attr in table().writes
        and node.func.attr.rstrip("_") in table().operations
    )


def _root(node: ast.AST) -> str:
    return node.func.value.id if _is_inplace(node) else ""  # type: ignore[attr-defined]


def _drop_underscore(text: Text, node: ast.AST | None) -> Edit:
    assert isinstance(node, ast.Call)  # noqa: S101  _is_inplace said so
    end = text.end(node.func)
    return Edit(end - 1, end, "")


def _is_local(function: ast.AST | None, name: str) -> bool:
    """Whether rebinding a name is all that the write was for: a local of its own, or an argument that is returned."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or not name:
        return False
    given = function.args
    if name not in [part.arg for part in (*given.posonlyargs, *given.args, *given.kwonlyargs)]:
        return not any(isinstance(node, ast.Global | ast.Nonlocal) and name in node.names for node in walk(function))
    returns = [node.value for node in walk(function) if isinstance(node, ast.Return)]
    return bool(returns) and all(isinstance(value, ast.Name) and value.id == name for value in returns)


def _argument(name: str, value: str, wanted: str) -> Callable[[Text, ast.AST, ast.AST | None, Finding], Iterator[Edit]]:
    def add(text: Text, node: ast.AST, function: ast.AST | None, finding: Finding) -> Iterator[Edit]:
        for call in walk(node):
            if isinstance(call, ast.Call) and _last(call.func) == wanted and call.lineno == finding.culprit.line:  # type: ignore[union-attr]
                if any(keyword.arg in (name, None) for keyword in call.keywords):
                    return
                last = max([*call.args, *(keyword.value for keyword in call.keywords)], key=text.end, default=None)
                if last is not None:
                    yield Edit(text.end(last), text.end(last), f", {name}={value}")
                return

    return add


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _detached(text: Text, node: ast.AST, function: ast.AST | None, finding: Finding) -> Iterator[Edit]:
    value: ast.expr | None = None
    if isinstance(node, ast.AugAssign):
        value = node.value
    elif (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and _last(node.value.func) == "append"
        and len(node.value.args) == 1
    ):
        value = node.value.args[0]
    if isinstance(value, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
        yield Edit(text.end(value), text.end(value), ".detach()")


def _module_list(text: Text, node: ast.AST, function: ast.AST | None, finding: Finding) -> Iterator[Edit]:
    if "plain" not in finding.message or not isinstance(node, ast.Assign):
        return
    value = node.value
    layer = next(
        (call for call in walk(value) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)), None
    )
    if layer is None:
        return
    space = text.of(layer.func.value)  # type: ignore[attr-defined]
    kind = "ModuleDict" if isinstance(value, ast.Dict | ast.DictComp) else "ModuleList"
    yield Edit(text.start(value), text.start(value), f"{space}.{kind}(")
    yield Edit(text.end(value), text.end(value), ")")


def _finfo(text: Text, node: ast.AST, function: ast.AST | None, finding: Finding) -> Iterator[Edit]:
    imported = any(
        isinstance(part, ast.Import) and any(alias.name == "torch" and alias.asname is None for alias in part.names)
        for part in text.tree.body
    )
    for call in walk(node):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute) and call.func.attr in ("masked_fill", "masked_fill_")
            and isinstance(call.func.value, ast.Name) and len(call.args) == 2 and _is_low(call.args[1]) and imported
        ):  # fmt: skip
            yield Edit(text.start(call.args[1]), text.end(call.args[1]), f"torch.finfo({call.func.value.id}.dtype).min")
            return


def _is_low(node: ast.expr) -> bool:
    """A finite negative number; infinity means something else."""
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)


_FIXES: dict[str, Callable[[Text, ast.AST, ast.AST | None, Finding], Iterator[Edit]]] = {
    "GG101": _out_of_place,
    "GG105": _out_of_place,
    "GG106": _out_of_place,
    "GG201": _module_list,
    "GG202": _argument("create_graph", "True", "grad"),
    "GG210": _detached,
    "GG304": _finfo,
    "GG605": _argument("weights_only", "True", "load"),
}
