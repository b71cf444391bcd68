"""The function that a loop calls for its batches: the adapter lends it a loader, and yields what it gives."""

from __future__ import annotations

import ast
import builtins
import copy
import dataclasses
import inspect
import sys
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradgate.commands.backwards import parsed
from gradgate.commands.construction import hints_of
from gradgate.commands.methods import is_of_the_trainer
from gradgate.commands.own_loaders import passed
from gradgate.commands.owned import method_text
from gradgate.commands.rewriting import alias_of, double_quoted
from gradgate.commands.stage_text import Target

_TOKENS = ("input_ids", "token_ids", "ids", "tokens", "token_BS")
_MASKS = ("attention_mask", "real", "mask", "real_mask", "token_mask", "valid_BS", "valid")
_DOCUMENTS = ("document_ids", "doc_ids", "segment_ids", "segments", "document_BS")
_HOPS = 3


@dataclass
class Lent:
    """A function of the trainer's that gives the batches of its loop.

    Args:
        holder: the adapter's text of the module that the loop has it from.
        name: its name there.
        function: it.
        call: of the loop.
        epochs: the loop around that calls it once a turn; None: it is called once.
        alias: what the adapter calls the module of the loop.
        names: what names mean there.
        imports: what the lines need.
    """

    holder: str
    name: str
    function: Any
    call: ast.Call
    epochs: ast.For | ast.While | None
    alias: str
    names: dict[str, Any]
    imports: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, target: Target, node: ast.FunctionDef, loop: ast.For) -> Lent | None:
        """That of a loop; None: it takes its batches from something else."""
        call, names = _call(node, loop), vars(sys.modules[target.module])
        if call is None:
            return None
        *modules, name = ast.unparse(call.func).split(".")
        found: Any = sys.modules[target.module]
        for part in modules:
            found = getattr(found, part, None)
        function = getattr(found, name, None)
        if not inspect.ismodule(found) or not inspect.isfunction(function) or not is_of_the_trainer(function):
            return None
        around = [part for part in ast.walk(node) if isinstance(part, ast.For | ast.While) and part is not loop]
        epochs = next((part for part in reversed(around) if any(each is call for each in ast.walk(part))), None)
        holder = ".".join([alias_of(target.module), *modules])
        return cls(holder, name, function, call, epochs, alias_of(target.module), names)

    def batches(self) -> str:
        """The method `batches`: what the function gives, called with the loop's own variables."""
        target = self.epochs.target if isinstance(self.epochs, ast.For) else None
        counts = isinstance(self.epochs, ast.For) and ast.unparse(self.epochs.iter).startswith("range(")
        epoch = target.id if isinstance(target, ast.Name) and counts else ""
        used = any(isinstance(part, ast.Name) and part.id == epoch for part in ast.walk(self.call))
        given = _Locals(self.alias, self.names, epoch if used else "").visit(copy.deepcopy(self.call))
        text = double_quoted(ast.unparse(given))
        if self.epochs is None:
            return method_text("batches(self)", [f"own = {text}", "while True:", "    yield from own"])
        if not used:
            return method_text("batches(self)", ["while True:", f"    yield from {text}"])
        self.imports.append("import itertools")
        return method_text(
            "batches(self)",
            [f'for {epoch} in itertools.count(self.local("{epoch}")):', f"    yield from {text}"],
        )

    def rows(self) -> str:
        """What checks may do with a batch that is an object of the trainer's; empty: it is a mapping, or not known."""
        kind = _made_by(self.function)
        if kind is None or not dataclasses.is_dataclass(kind):
            return ""
        hints = hints_of(kind)
        names = [*hints, *(name for name, value in vars(kind).items() if isinstance(value, property))]
        token, mask, document = (
            next((name for name in known if name in names), "") for known in (_TOKENS, _MASKS, _DOCUMENTS)
        )
        places = [f"batch.{token}" if token else "...", f"batch.{mask}.bool()" if mask else "..."]
        places += [f"batch.{document}"] if document else []
        asked = "" if token and mask else "  # REPLACE: token ids, and True where a token is real"
        text = method_text("tokens(self, batch)", [f"return gradgate.Tokens({', '.join(places)}){asked}"])
        others = [name for name, hint in hints.items() if hint is not Tensor]
        if not others:
            self.imports.append("import dataclasses")
            columns = "{name: column[list(index)] for name, column in vars(batch).items()}"
            return text + method_text(
                "select_rows(self, batch, index)", [f"return dataclasses.replace(batch, **{columns})"]
            )
        listed = ", ".join(others)
        return text + f"\n    # REPLACE: select_rows(batch, index) and pad(batch, count); no tensor of rows: {listed}\n"


class _Locals(ast.NodeTransformer):
    """Local variables of the loop as the adapter reads them, where it stands still."""

    def __init__(self, alias: str, names: dict[str, Any], epoch: str) -> None:
        self.alias, self.names, self.epoch = alias, names, epoch

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == self.epoch or not isinstance(node.ctx, ast.Load):
            return node
        if node.id in self.names:
            return ast.Attribute(ast.Name(self.alias, ast.Load()), node.id, ast.Load())
        if hasattr(builtins, node.id):
            return node
        return ast.parse(f'self.local("{node.id}")', mode="eval").body


def loader_argument(node: ast.FunctionDef, loop: ast.For) -> str:
    """The argument of a function that its loop goes over; empty: it goes over something else."""
    given = {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    return next((name for name in _gone_over(loop.iter) if name in given), "")


def _gone_over(over: ast.expr) -> list[str]:
    over = passed(over)
    if isinstance(over, ast.Name):
        return [over.id]
    if not isinstance(over, ast.Call):
        return []
    if isinstance(over.func, ast.Attribute):
        return [over.func.value.id] if isinstance(over.func.value, ast.Name) and not over.args[1:] else []
    is_builtin = isinstance(over.func, ast.Name) and hasattr(builtins, over.func.id) and over.func.id != "range"
    return [each.id for each in over.args if isinstance(each, ast.Name)] if is_builtin else []


def _call(node: ast.FunctionDef, loop: ast.For) -> ast.Call | None:
    """The call that gives what a loop goes over, there or in a variable that is set once."""
    over = passed(loop.iter)
    if isinstance(over, ast.Name):
        stores = [part for part in ast.walk(node) if isinstance(part, ast.Name) and part.id == over.id]
        stores = [part for part in stores if isinstance(part.ctx, ast.Store)]
        made = [part.value for part in ast.walk(node) if isinstance(part, ast.Assign)
                and any(isinstance(each, ast.Name) and each.id == over.id for each in part.targets)]  # fmt: skip
        if len(stores) != 1 or len(made) != 1:
            return None
        over = passed(made[0])
    is_dotted = isinstance(over, ast.Call) and all(map(str.isidentifier, ast.unparse(over.func).split(".")))
    return over if isinstance(over, ast.Call) and is_dotted else None


def _made_by(function: Any, hops: int = _HOPS) -> type[Any] | None:
    """The class of what a function gives back or yields, by what that is made by; None: not known."""
    node = parsed(function)
    if node is None:
        return None
    for part in ast.walk(node):
        value = part.value if isinstance(part, ast.Return | ast.Yield) else None
        if isinstance(value, ast.Name):
            made = [each.value for each in ast.walk(node) if isinstance(each, ast.Assign)
                    and ast.unparse(each.targets[0]) == value.id]  # fmt: skip
            value = made[0] if made else None
        called = function.__globals__.get(_called(value))
        if inspect.isclass(called) and is_of_the_trainer(called):
            return called
        if inspect.isfunction(called) and hops and (found := _made_by(called, hops - 1)) is not None:
            return found
    return None


def _called(value: ast.expr | None) -> str:
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
