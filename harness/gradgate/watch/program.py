"""An unchanged program under the recorder: its own arguments, `__main__`, output and exit code."""

from __future__ import annotations

import builtins
import importlib.util
import os
import pdb
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding, Location
from gradgate.core.main_program import as_main
from gradgate.core.origin import is_own_code

Stop = Callable[[Finding, TracebackType | None], None]
_GRADGATE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended.

    Args:
        exit: its own exit code.
        findings: what the recorder saw, worst first.
        is_child: this process is a fork that the program made; it has nothing to report.
    """

    exit: int
    findings: list[Finding]
    is_child: bool


def run_script(script: str, arguments: Sequence[str], stop: Stop | None = None) -> Ran:
    """Run a script as `python SCRIPT ARGS…` does.

    Args:
        script: its path.
        arguments: its own.
        stop: end the program at the first finding that is no note, and call this with it; None: run to the end.

    Returns:
        How it ended.

    Raises:
        GradgateError: there is no such file, or it is no Python.
    """
    file = Path(script)
    if file.is_dir() and (file / "__main__.py").is_file():
        file = file / "__main__.py"
    try:
        code = compile(file.read_bytes(), str(file), "exec")
    except OSError as error:
        raise GradgateError(f"cannot read {script}: {error.strerror or error}") from error
    except (SyntaxError, ValueError) as error:
        raise GradgateError(f"{script} is no Python that can be run: {error}") from error
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=str(file), __builtins__=builtins, __spec__=None, __cached__=None)

    def run() -> None:
        sys.modules["__main__"] = main
        exec(code, main.__dict__)  # noqa: S102 - running the program is the point

    return _watched(run, [script, *arguments], str(file.resolve().parent), stop)


def run_module(module: str, arguments: Sequence[str], stop: Stop | None = None) -> Ran:
    """Run a module as `python -m MODULE ARGS…` does.

    Args:
        module: its dotted name.
        arguments: its own.
        stop: as for `run_script`.

    Returns:
        How it ended.

    Raises:
        GradgateError: there is no such module.
    """
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise GradgateError(f"no module {module!r}: {error}") from error
    finally:
        sys.path.pop(0)
    if found is None:
        raise GradgateError(f"no module {module!r} in the working directory or installed")

    def run() -> None:
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return _watched(run, [found.origin or module, *arguments], str(Path.cwd()), stop)


def debug(finding: Finding, trace: TracebackType | None) -> None:
    """Open the debugger where a program was stopped: in the culprit's frame while that runs, else in the innermost.

    Args:
        finding: what stopped it.
        trace: where it was stopped.
    """
    own = _own_frames(trace)
    place, frames = finding.culprit, []
    while own is not None:
        frames.append(own)
        own = own.tb_next
    user = [frame for frame in frames if is_own_code(frame.tb_frame.f_code.co_filename)]
    culprit = [frame for frame in user if place is not None and _is_at(frame, place)]
    chosen = (culprit or user or frames)[-1] if frames else None
    if chosen is None:
        return
    if place is not None and not culprit:
        sys.stderr.write(f"the culprit has run already; to stop on it: break {place.file}:{place.line}\n")
    chosen.tb_next = None  # the debugger opens the last frame
    pdb.post_mortem(chosen)


def _is_at(frame: TracebackType, place: Location) -> bool:
    code = frame.tb_frame.f_code
    return code.co_filename == place.file and frame.tb_lineno == place.line


def _watched(run: Callable[[], None], argv: list[str], folder: str, stop: Stop | None) -> Ran:
    from gradgate.watch.block import Watch
    from gradgate.watch.catalogue import Stopped

    process = os.getpid()
    watch = Watch(first=stop is not None)
    with as_main(argv, folder):
        try:
            with watch:
                run()
            code = 0
        except SystemExit as leaving:
            code = _exit_code(leaving)
        except KeyboardInterrupt:
            code = 130
        except Stopped as stopped:
            code = 1
            if stop is not None:
                stop(stopped.finding, stopped.__traceback__)
        except BaseException as error:
            sys.excepthook(type(error), error, _own_frames(error.__traceback__))
            code = 1
    sys.stdout.flush()
    return Ran(code, watch.findings, os.getpid() != process)


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    sys.stderr.write(f"{leaving.code}\n")
    return 1


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that started the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((_GRADGATE, "<frozen runpy>")):
        trace = trace.tb_next
    return trace
