"""A parsed file: its imports, classes and functions, and which of them are worth a closer look."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradgate.scan.nodes import push_children
from gradgate.scan.operations import FACTORIES, table

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
FORWARDS = frozenset({"forward", "__call__", "training_step"})


@dataclass(eq=False, slots=True)
class Function:
    """A function or method of the scanned code."""

    node: FunctionNode
    name: str
    module: Module
    owner: Class | None = None
    no_grad: bool = False
    static: bool = False  # staticmethod
    is_property: bool = False
    calls: set[str] = field(default_factory=set)  # names and attributes that it mentions
    named: set[str] = field(default_factory=set)  # of these, the names
    written: set[str] = field(default_factory=set)  # names that it writes by index, or counts up
    plain: set[str] = field(default_factory=set)  # names that it binds to a number or to an empty container
    stores: bool = False  # assigns an attribute
    sets_grad: bool = False  # calls torch.set_grad_enabled as a statement
    rebinds: frozenset[str] = frozenset()  # names that it declares global
    hot: bool = False  # holds an expression that a rule is about
    touches: bool = False  # holds an operation, layer, method or annotation by which a value is known to be a tensor
    evidence: frozenset[str] | None = None  # parameters that its body treats as tensors; found when first asked for

    @property
    def parameters(self) -> list[str]:
        """Names of all parameters, in order."""
        given = self.node.args
        return [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


@dataclass(eq=False, slots=True)
class Class:
    """A class of the scanned code."""

    node: ast.ClassDef
    name: str
    module: Module
    bases: list[str] = field(default_factory=list)  # dotted, as imported
    methods: dict[str, Function] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)  # attributes that some method assigns

    def parents(self) -> list[Class]:
        """Base classes that this file defines."""
        return [self.module.classes[base] for base in self.bases if base in self.module.classes and base != self.name]

    def lineage(self) -> list[Class]:
        """This class, then its known bases, nearest first."""
        found: list[Class] = []
        queue = [self]
        while queue:
            entry = queue.pop(0)
            if entry not in found:
                found.append(entry)
                queue += entry.parents()
        return found

    def method(self, name: str) -> Function | None:
        """A method by name, inherited ones too."""
        for entry in self.lineage():
            if name in entry.methods:
                return entry.methods[name]
        return None

    def constant(self, name: str) -> ast.expr | None:
        """A class attribute that no method assigns, inherited ones too."""
        if any(name in entry.written for entry in self.lineage()):
            return None
        for entry in self.lineage():
            if name in entry.constants:
                return entry.constants[name]
        return None

    def is_a(self, *dotted: str) -> bool:
        """Whether a base, or a base of a base, is one of these imported classes."""
        return any(base in dotted for entry in self.lineage() for base in entry.bases)

    @property
    def is_layer(self) -> bool:
        """Whether it is, or is named as, an nn.Module."""
        return any(
            base in _LAYERS or base.rpartition(".")[2].endswith(("Module", "Layer", "PreTrainedModel", "Model"))
            for entry in self.lineage()
            for base in entry.bases
        )

    @property
    def is_optimizer(self) -> bool:
        """Whether it is an optimizer."""
        return any(base.rpartition(".")[2].endswith("Optimizer") for entry in self.lineage() for base in entry.bases)

    @property
    def is_function(self) -> bool:
        """Whether it is a custom autograd.Function."""
        return self.is_a("torch.autograd.Function", "torch.autograd.function.Function", "autograd.Function")


_LAYERS = {
    "torch.nn.Module",
    "torch.nn.modules.module.Module",
    "nn.Module",
    "lightning.LightningModule",
    "pytorch_lightning.LightningModule",
}
_HOT_NAMES = frozenset({
    "backward", "step", "where", "tensor", "from_numpy", "frombuffer", "numpy", "set_grad_enabled",
    "requires_grad_", "apply",
    "sqrt", "log", "log2", "log10", "copyto", "masked_fill", "round", "checkpoint", "grad", "data",
    "register_hook", "inplace", "out", "parameters", "mse_loss", "l1_loss", "smooth_l1_loss",
})  # fmt: skip


_NO_ARGUMENTS = ast.arguments([], [], None, [], [], None, [])


class Module:
    """One parsed file.

    Its top level is a function, too, of the name `<module>`: `body`. `scopes` are all functions and the top level.
    """

    def __init__(self, path: str, tree: ast.Module, lines: list[str]) -> None:
        self.path = path
        self.tree = tree
        self.lines = lines
        self.imports: dict[str, str] = {}
        self.relative: dict[
            str, tuple[int, str, str]
        ] = {}  # name -> (level, module, name): imports within the scanned tree
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, Class] = {}
        self.every: list[Function] = []
        self.constants: dict[str, ast.expr] = {}
        self.attributes: dict[str, int] = {}  # how often each attribute name is mentioned
        self.strings: set[str] = set()
        self.keywords: dict[str, list[Function]] = {}  # who passes a keyword of this name, or sets such an attribute
        self.rebound: set[str] = set()  # names that some function declares global
        self._inner: dict[ast.AST, Function] = {}
        self._defined: dict[ast.AST, Class] = {}
        top = [node for node in tree.body if type(node) not in _DEFINITIONS]
        self.body = Function(
            ast.FunctionDef("<module>", _NO_ARGUMENTS, top, [], lineno=1, col_offset=0), "<module>", self
        )
        self._collect(tree.body, None, None)
        self.body.hot |= not self.body.written <= self.body.plain
        self.scopes = [self.body, *self.every]

    def release(self) -> None:
        """Undo the cycles of references: the syntax tree is freed at once, and no collector has to look for it."""
        for entry in self._defined.values():
            entry.methods.clear()
        for held in (self.functions, self.classes, self.keywords, self._inner, self._defined):
            held.clear()
        self.every.clear()
        self.scopes.clear()

    def line(self, number: int) -> str:
        """A line's text, stripped."""
        return self.lines[number - 1].strip() if 0 < number <= len(self.lines) else ""

    def dotted(self, node: ast.AST) -> str:
        """`torch.nn.functional.relu` for `F.relu`; empty where the root is not imported."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        root = self.imports.get(node.id, "")
        if not root:
            return ""
        parts.append(root)
        return ".".join(reversed(parts))

    def inner(self, node: ast.AST) -> Function | None:
        """The function that a `def` outside of classes defines."""
        return self._inner.get(node)

    def defined(self, node: ast.ClassDef) -> Class | None:
        """The class that a statement of the top level defines; its name may be defined again."""
        return self._defined.get(node)

    def anonymous(self, node: ast.Lambda) -> Function:
        """The function that a lambda is."""
        found = self._inner.get(node)
        if found is None:
            found = self._inner[node] = Function(node, "<lambda>", self, static=True)
        return found

    def base_name(self, node: ast.expr) -> str:
        """A base class as imported, or its own name in this file."""
        return self.dotted(node) or ast.unparse(node)

    def _collect(self, body: list[Any], owner: Class | None, function: Function | None) -> None:
        for statement in body:
            self._statement(statement, owner, function)

    def _statement(self, node: ast.AST, owner: Class | None, function: Function | None) -> None:
        kind = type(node)
        if kind is ast.FunctionDef or kind is ast.AsyncFunctionDef:
            self._function(node, owner, function)  # type: ignore[arg-type]
        elif kind is ast.ClassDef:
            self._class(node)  # type: ignore[arg-type]
        elif kind is ast.Import:
            for alias in node.names:  # type: ignore[attr-defined]
                self.imports[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif kind is ast.ImportFrom:
            self._import_from(node)  # type: ignore[arg-type]
        else:
            if owner is None and function is None and kind is ast.Assign and isinstance(node.targets[0], ast.Name):  # type: ignore[attr-defined]
                self.constants[node.targets[0].id] = node.value  # type: ignore[attr-defined]
            self._inside(node, owner, function)

    def _import_from(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            if node.level == 0:
                self.imports[name] = f"{node.module}.{alias.name}"
            self.relative[name] = (node.level, node.module or "", alias.name)

    def _class(self, node: ast.ClassDef) -> None:
        entry = Class(node, node.name, self, [self.base_name(base) for base in node.bases])
        self.classes.setdefault(node.name, entry)
        self._defined[node] = entry
        for statement in node.body:
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        entry.constants[target.id] = statement.value
            elif isinstance(statement, ast.AnnAssign) and statement.value and isinstance(statement.target, ast.Name):
                entry.constants[statement.target.id] = statement.value
        self._collect(node.body, entry, None)

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, owner: Class | None, outer: Function | None
    ) -> None:
        entry = Function(node, node.name, self, owner if outer is None else None)
        for decorator in node.decorator_list:
            name = self._decorator(decorator)
            entry.no_grad |= name.endswith(("no_grad", "inference_mode"))
            entry.static |= name == "staticmethod"
            entry.is_property |= name in ("property", "functools.cached_property", "cached_property")
        entry.no_grad |= "inference" in node.name
        given = node.args
        entry.touches = any(
            is_tensor_annotation(part.annotation) for part in (*given.posonlyargs, *given.args, *given.kwonlyargs)
        )
        self.every.append(entry)
        if outer is not None:
            outer.calls.add(node.name)
            outer.named.add(node.name)
            self._inner[node] = entry
        elif owner is not None:
            owner.methods[node.name] = entry
        else:
            self.functions.setdefault(node.name, entry)
            self._inner[node] = entry
        for statement in node.body:
            self._statement(statement, owner, entry)
        entry.hot |= not entry.written <= entry.plain
        for part in (*node.args.defaults, *node.args.kw_defaults):
            if part is not None:
                self._inside(part, owner, outer)

    def _decorator(self, node: ast.expr) -> str:
        if isinstance(node, ast.Call):
            name = self.dotted(node.func)
            if (
                name.endswith("set_grad_enabled")
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and not node.args[0].value
            ):
                return "no_grad"
            return name
        return self.dotted(node) or (node.id if isinstance(node, ast.Name) else "")

    def _inside(self, node: ast.AST, owner: Class | None, function: Function | None) -> None:
        stack: list[ast.AST] = [node]
        outer = function
        if function is None and owner is None:
            function = self.body
        while stack:
            part = stack.pop()
            kind = type(part)
            if kind in _DEFINITIONS:
                self._statement(part, owner, outer)
                continue
            if kind is ast.Attribute:
                name = part.attr  # type: ignore[attr-defined]
                self.attributes[name] = self.attributes.get(name, 0) + 1
                if function is not None:
                    function.calls.add(name)
                    function.sets_grad |= name == "set_grad_enabled"
                    function.touches = function.touches or self._brings_tensor(part)  # type: ignore[arg-type]
                    if name in _HOT_NAMES or (name[-1] == "_" and name[:2] != "__"):
                        function.hot = True
                    if type(part.ctx) is ast.Store:  # type: ignore[attr-defined]
                        self.keywords.setdefault(name, []).append(function)
                        function.stores = True
                        if owner is not None:
                            owner.written.add(name)
                if type(part.value) is not ast.Name:  # type: ignore[attr-defined]
                    stack.append(part.value)  # type: ignore[attr-defined]
                elif function is not None:
                    function.named.add(part.value.id)  # type: ignore[attr-defined]
                    function.calls.add(part.value.id)  # type: ignore[attr-defined]
                continue
            if kind is ast.Name:
                if function is not None:
                    function.named.add(part.id)  # type: ignore[attr-defined]
                    function.calls.add(part.id)  # type: ignore[attr-defined]
                    if not function.touches:
                        root = self.imports.get(part.id, "")  # type: ignore[attr-defined]
                        function.touches = part.id == "Tensor" or root.startswith(("torch.nn.", "torch.autograd"))  # type: ignore[attr-defined]
                continue
            if kind is ast.Constant:
                if type(part.value) is str and len(part.value) < 60:  # type: ignore[attr-defined]
                    self.strings.add(part.value)  # type: ignore[attr-defined]
                continue
            if kind is ast.Global and function is not None:
                function.rebinds = function.rebinds.union(part.names)  # type: ignore[attr-defined]
                self.rebound.update(part.names)  # type: ignore[attr-defined]
            if kind is ast.keyword and function is not None and part.arg:  # type: ignore[attr-defined]
                self.keywords.setdefault(part.arg, []).append(function)  # type: ignore[attr-defined]
            if function is not None and not function.hot:
                _look_for_writes(function, part)
            push_children(stack, part)

    def _brings_tensor(self, node: ast.Attribute) -> bool:
        """Whether `torch.name`, `nn.name`, `F.name` or a method that only tensors have is mentioned."""
        if node.attr in _tensor_names():
            return True
        root = self.imports.get(node.value.id, "") if type(node.value) is ast.Name else ""
        return root in ("torch.nn", "torch.nn.functional") or (root == "torch" and node.attr in _torch_makers())


@functools.cache
def _tensor_names() -> frozenset[str]:
    return (
        table().evidence | table().writes | {"backward", "weight", "bias", "Tensor", "Parameter", "parameters", "numpy"}
    )


@functools.cache
def _torch_makers() -> frozenset[str]:
    return frozenset(table().operations) | FACTORIES | {"nn"}


def is_test(path: str, function: str) -> bool:
    """Whether code is a test's, by the names of its function, file or folders."""
    parts = Path(path).parts[-6:]
    file = parts[-1].lower() if parts else ""
    return (
        function.lower().lstrip("_").startswith("test")
        or file.startswith("test_")
        or file.endswith("_test.py")
        or any(part.lower() in ("test", "tests", "testing", "test_utils") for part in parts[:-1])
    )


def is_tensor_annotation(node: ast.expr | None) -> bool:
    """`Tensor`, `torch.Tensor`, `Tensor | None` or such a string; a list or dict of them is none."""
    if isinstance(node, ast.BinOp):
        return is_tensor_annotation(node.left) or is_tensor_annotation(node.right)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and "Tensor" in node.value and "[" not in node.value
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return "Tensor" in name


def _look_for_writes(function: Function, node: ast.AST) -> None:
    """Note a write, other than by a method, that may go to a tensor."""
    kind = type(node)
    if kind is ast.Subscript:
        if type(node.ctx) is ast.Store and not _is_text(node.slice):  # type: ignore[attr-defined]
            _written(function, node.value)  # type: ignore[attr-defined]
    elif kind is ast.AugAssign:
        value = node.value  # type: ignore[attr-defined]
        if type(value) is ast.Constant and type(value.value) in (int, float):
            _written(function, node.target)  # type: ignore[attr-defined]
        elif type(value) not in _NO_NUMBERS and not _is_text(value):
            function.hot = True
    elif kind is ast.Assign:
        value = node.value  # type: ignore[attr-defined]
        if type(value) in _CONTAINERS or (type(value) is ast.Constant and type(value.value) in (int, float)):
            function.plain.update(part.id for part in node.targets if type(part) is ast.Name)  # type: ignore[attr-defined]
    elif kind is ast.keyword:
        function.hot = node.arg in _HOT_NAMES  # type: ignore[attr-defined]


def _written(function: Function, target: ast.expr) -> None:
    if type(target) is ast.Name:
        function.written.add(target.id)
    else:
        function.hot = True


def _is_text(node: ast.expr) -> bool:
    """Whether it is a string: no tensor is indexed by one, or grows by one."""
    return type(node) is ast.JoinedStr or (type(node) is ast.Constant and type(node.value) is str)


_CONTAINERS = {ast.Dict, ast.List, ast.DictComp, ast.ListComp}
_NO_NUMBERS = {ast.List, ast.Tuple, ast.ListComp, ast.Dict, ast.Set}


_DEFINITIONS = {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom}
