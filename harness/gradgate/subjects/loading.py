"""load_target: from what the user calls a trainer to its Subject."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from gradgate.core.errors import TargetError, nearest
from gradgate.core.origin import in_one_line, leave_out
from gradgate.core.project import find_project
from gradgate.subjects.contract import Subject

GROUP = "gradgate.subjects"
FORM = "package.module:factory"
_TRAINS = re.compile(r"\.backward\(|\(nn\.Module\)|\(torch\.nn\.Module\)")


def load_target(target: str | None = None, path: Path | None = None) -> Subject:
    """Import and build a subject.

    Args:
        target: `package.module:factory`, or the name of an entry point of the group `gradgate.subjects`; None: what the
            nearest pyproject.toml names as `[tool.gradgate] target`, else the one registered subject.
        path: a folder that goes first on the import path, and stays there.

    Returns:
        The subject, `import_effects` filled in; the process's settings and generators are as they were before.

    Raises:
        TargetError: it does not import, does not build, or is no Subject.
        GradgateError: the pyproject.toml is not valid.
    """
    if path is not None:
        _put_first(path)
    spec = spelled_out(target or target_of(path or Path.cwd()))
    from gradgate.subjects.global_state import GlobalState  # imports torch, which a mistake above should not wait for

    before = GlobalState.now()
    try:
        factory = _factory(spec)
        subject = _build(factory, spec)
        _leave_out_adapter(factory, subject.source)
        return replace(subject, import_effects=tuple(before.changes()))
    finally:
        before.restore()


def _leave_out_adapter(factory: Callable[[], Any], source: Path | None) -> None:
    """Let no line of the adapter be named as the trainer's, where it has imported that from the folder beside it.

    A file that has a module or goes backward itself is the trainer's, too.
    """
    try:
        adapter, text = inspect.getsourcefile(factory), inspect.getsource(inspect.getmodule(factory) or factory)
    except (OSError, TypeError):
        return
    if adapter is None or _TRAINS.search(text):
        return
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    others = (Path(file).resolve() for file in files if file and file != adapter)
    folder = Path(source or Path(adapter).parent).resolve()
    if any(other.is_relative_to(folder) and other.name != "__init__.py" for other in others):
        leave_out(adapter)


def target_of(start: Path) -> str:
    """TARGET where none is given: what the nearest pyproject.toml names, else the one registered subject.

    Args:
        start: the folder where the search for pyproject.toml begins.

    Raises:
        TargetError: there is neither, or several are registered.
    """
    return find_project(start).target or _only_registered()


def _put_first(folder: Path) -> None:
    if not folder.is_dir():
        raise TargetError(f"--path {folder}: no such folder")
    resolved = str(folder.resolve())
    for package in (found.name for found in pkgutil.iter_modules([resolved]) if found.ispkg):
        here = PathFinder.find_spec(package, [resolved])
        imported = getattr(sys.modules.get(package), "__file__", None)
        if package != "gradgate" and here and imported and here.origin != imported:
            raise TargetError(
                f"--path {folder}: its package {package!r} is already imported from {imported}; start a new process"
            )
    sys.path[:] = [resolved, *(entry for entry in sys.path if entry != resolved)]
    importlib.invalidate_caches()


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _only_registered() -> str:
    names = sorted(_registered())
    if len(names) == 1:
        return names[0]
    if names:
        raise TargetError(f"several subjects are registered, name one of them: {', '.join(names)}")
    raise TargetError(
        f"no TARGET: give {FORM}, set `target` under [tool.gradgate] in pyproject.toml, "
        f"or register an entry point in the group {GROUP!r}"
    )


def spelled_out(target: str) -> str:
    """A target as `package.module:factory`: itself, or what the registered subject of that name is.

    Raises:
        TargetError: it is neither.
    """
    if ":" in target:
        module, _, attribute = target.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
            raise TargetError(f"TARGET {target!r} is not of the form {FORM}")
        return target
    points = _registered()
    if target not in points:
        known = f"registered: {', '.join(sorted(points))}" if points else "none is registered"
        raise TargetError(
            f"TARGET {target!r} is neither {FORM} nor a registered subject ({known}){nearest(target, points)}"
        )
    return points[target].value


def _factory(spec: str) -> Callable[[], Any]:
    module_name, _, attribute = spec.partition(":")
    found: Any = _module(spec, module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            choices = [choice for choice in dir(found) if not choice.startswith("_")]
            raise TargetError(f"TARGET {spec}: {module_name} has no {attribute!r}{nearest(name, choices)}")
        found = getattr(found, name)
    if not callable(found):
        raise TargetError(
            f"TARGET {spec}: expected a function that returns a gradgate.Subject, got a {type(found).__name__}"
        )
    return found  # type: ignore[no-any-return]


def _module(spec: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(f"TARGET {spec}: no module {error.name!r}{_near_module(error.name)}") from error
        raise TargetError(f"TARGET {spec}: importing {name} raised {in_one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise TargetError(f"TARGET {spec}: importing {name} raised {in_one_line(error)}") from error


def _near_module(name: str) -> str:
    parent, _, leaf = name.rpartition(".")
    folders: Iterable[str] | None = getattr(sys.modules[parent], "__path__", ()) if parent else None
    if not parent and PathFinder.find_spec(leaf, [str(Path.cwd())]):
        return "; it lies in the current folder: add --path ."
    return nearest(leaf, [found.name for found in pkgutil.iter_modules(folders)])


def _build(factory: Callable[[], Any], spec: str) -> Subject:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise TargetError(f"TARGET {spec}: must be callable without arguments: {error}") from error
    except ValueError:
        pass  # some builtins have no signature: the call below tells
    try:
        subject = factory()
    except (Exception, SystemExit) as error:
        raise TargetError(f"TARGET {spec}: building the subject raised {in_one_line(error)}") from error
    if not isinstance(subject, Subject):
        raise TargetError(f"TARGET {spec}: returned a {type(subject).__name__}, expected a gradgate.Subject")
    return subject
