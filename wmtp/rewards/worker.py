"""The sandbox's worker: forks one limited child for each program it is asked to run. Standard library only.

`wmtp.rewards.sandbox` runs this file as a program of its own; it imports nothing of `wmtp`, so that a fork stays cheap.
Requests come as JSON lines on standard input, replies leave as JSON lines on standard output; when the input ends,
whatever runs is killed and the worker's folder is removed.

The limits guard against accidents. They are no security boundary: a program that wants out gets out.
"""

from __future__ import annotations

import _posixsubprocess  # type: ignore[import-not-found, unused-ignore]
import _thread
import importlib
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

# What programs under test import most: loaded once here, inherited by every child.
WARM = (
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools",
    "heapq", "itertools", "operator", "re", "statistics", "string", "typing",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = (
    "ctypes.", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn", "os.system",
    "pty.spawn", "resource.setrlimit", "signal.pthread_kill", "socket.", "subprocess.",
)  # fmt: skip
PATH_EVENTS = frozenset({
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename", "os.rmdir",
    "os.setxattr", "os.symlink", "os.truncate", "os.utime", "shutil.rmtree", "sqlite3.connect",
})  # fmt: skip
DESCRIPTORS = 256  # more than a worker ever has open
MESSAGE_CHARS = 200
REPLY_BYTES = 65536  # far above any reply; a program that floods its result pipe is cut off here


def make_guard(folder: str) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that refuses processes, threads, signals, sockets, ctypes, and writing outside `folder`."""
    inside = os.path.realpath(folder)

    def guard(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(REFUSED):
            raise PermissionError(f"{event} is refused to a program under test")
        if event == "open":
            path, _, flags = arguments
            written: tuple[object, ...] = (path,) if isinstance(flags, int) and flags & WRITING else ()
        else:
            written = arguments if event in PATH_EVENTS else ()
        for path in written:
            if isinstance(path, str | bytes | os.PathLike) and not _may_write(os.fsdecode(path), inside):
                raise PermissionError(f"{event}: writing outside the working folder is refused: {path!r}")

    return guard


def _may_write(path: str, inside: str) -> bool:
    return path == os.devnull or (os.path.realpath(path) + os.sep).startswith(inside + os.sep)


def refuse(*_: object, **__: object) -> NoReturn:
    """Stands in for what starts a process or a thread without an audit event."""
    raise PermissionError("a new process or thread is refused to a program under test")


def disarm() -> None:
    """Replace what starts a process or a thread without an audit event, before any module keeps a name of it."""
    _posixsubprocess.fork_exec = refuse
    for name in ("start_new_thread", "start_new", "start_joinable_thread"):  # the last is of Python 3.13
        setattr(_thread, name, refuse)


def set_limits(limits: dict[str, Any]) -> None:
    """Bound this process; what the operating system already bounds more tightly stays.

    Raises:
        OSError, OverflowError, ValueError: the platform refuses a limit.
    """
    cpu_s = math.ceil(limits["cpu_s"]) + 1  # only where the program switched the timer below off
    bounds = {
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),  # a signal at the first, the end at the second
        resource.RLIMIT_AS: (limits["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (limits["file_bytes"],) * 2,
        resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
        resource.RLIMIT_NPROC: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, wanted in bounds.items():
        _, hard = resource.getrlimit(kind)
        soft, ceiling = (value if hard == resource.RLIM_INFINITY else min(value, hard) for value in wanted)
        resource.setrlimit(kind, (soft, ceiling))
    signal.setitimer(signal.ITIMER_PROF, limits["cpu_s"])
    signal.setitimer(signal.ITIMER_REAL, limits["wall_s"] + 1)  # ends it even where the worker was killed


def execute(program: str) -> tuple[str, str]:
    """Run `program` as the main module of this process.

    Returns:
        ("passed", ""), ("failed", why) after an AssertionError, ("error", why) after anything else.
    """
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 -- its purpose
    except AssertionError as error:
        return "failed", _describe(error, program)
    except BaseException as error:
        return "error", _describe(error, program)
    return "passed", ""


def _describe(error: BaseException, program: str) -> str:
    """The error's type and text, and the program's top-level line that raised it."""
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        where = f" at `{program.splitlines()[trace.tb_lineno - 1].strip()}`" if trace else ""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return (text[:MESSAGE_CHARS] + where)[: 2 * MESSAGE_CHARS]
    except BaseException:  # the program's own exception may raise when it is shown
        return type(error).__name__


def run_child(program: str, limits: dict[str, Any], folder: str, result: int, token: str) -> NoReturn:
    """The child's whole life: bound itself, run `program`, write token and verdict to `result`, end."""
    leave, write = os._exit, os.write  # the program may replace them
    passed = f"{token}{json.dumps(['passed', ''])}\n".encode()
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.clear()
        sys.argv = ["program.py"]
        random.seed(0)
        try:
            set_limits(limits)
        except (OSError, OverflowError, ValueError) as error:
            write(result, f"{token}{json.dumps(['refused', str(error)])}\n".encode())
            leave(0)
        sys.addaudithook(make_guard(folder))
        status, message = execute(program)
        write(result, passed if status == "passed" else f"{token}{json.dumps([status, message])}\n".encode())
        leave(0)
    finally:
        leave(1)


def outcome(data: bytes, token: str, wait_status: int | None, limits: dict[str, Any]) -> list[str]:
    """What a child's end means.

    Args:
        data: what it wrote to its result pipe; only a whole line that starts with `token` is a verdict.
        token: the secret of this run.
        wait_status: how it ended, None where the time was up before.
        limits: what it ran under.

    Returns:
        [status, message]; without a verdict never "passed", however orderly the end was.
    """
    if data.startswith(token.encode()) and data.endswith(b"\n"):
        verdict: list[str] = json.loads(data[len(token) :])
        return verdict
    if wait_status is None:
        return ["timeout", f"still running after {limits['wall_s']:g} s"]
    if os.WIFSIGNALED(wait_status):
        number = os.WTERMSIG(wait_status)
        if number in (signal.SIGPROF, signal.SIGXCPU):
            return ["timeout", f"used more than {limits['cpu_s']:g} s of processor time"]
        return ["error", f"ended by {signal.Signals(number).name} before its tests were through"]
    return ["error", f"ended with exit status {os.WEXITSTATUS(wait_status)} before its tests were through"]


def run(program: str, limits: dict[str, Any], folder: str, requests: int) -> list[str] | None:
    """Run `program` in a fresh child and an empty `folder`; None where `requests` ended meanwhile."""
    token = os.urandom(8).hex()
    os.mkdir(folder)  # noqa: PTH102 -- pathlib would make the worker slower to start
    result, child_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.closerange(3, child_end)  # the worker's own pipes are out of the program's reach
        os.closerange(child_end + 1, DESCRIPTORS)
        run_child(program, limits, folder, child_end, token)
    os.close(child_end)
    try:
        data, end = collect(result, requests, time.monotonic() + limits["wall_s"])
    finally:
        os.close(result)
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        _, wait_status = os.waitpid(pid, 0)
        remove(folder)
    return None if end == "orphaned" else outcome(data, token, None if end == "late" else wait_status, limits)


def remove(folder: str) -> None:
    """Remove a folder; most programs leave it empty, which is quicker."""
    try:
        os.rmdir(folder)  # noqa: PTH106 -- see above
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def collect(result: int, requests: int, deadline: float) -> tuple[bytes, str]:
    """What a child writes, and why reading ended: verdict, closed, late, or orphaned (nobody waits for it any more)."""
    data = b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([result, requests], [], [], left)
        if requests in ready:  # a request only follows a reply: this is the end of the input
            return data, "orphaned"
        if ready:
            chunk = os.read(result, REPLY_BYTES)
            data += chunk
            if not chunk or len(data) > REPLY_BYTES:
                return data, "closed"
            if chunk.endswith(b"\n"):
                return data, "verdict"
    return data, "late"


def lines(descriptor: int) -> Iterator[bytes]:
    """Lines of a file descriptor, read as they come."""
    pending = b""
    while chunk := os.read(descriptor, 1 << 20):
        *whole, pending = (pending + chunk).split(b"\n")
        yield from whole


def serve(requests: int, replies: int, root: str) -> None:
    """Answer requests until there are no more; then remove `root`."""
    try:
        os.write(replies, b'["ready", ""]\n')
        for number, line in enumerate(lines(requests)):
            request = json.loads(line)
            reply = run(request["program"], request["limits"], os.path.join(root, str(number)), requests)  # noqa: PTH118
            if reply is None:
                break
            os.write(replies, json.dumps(reply).encode() + b"\n")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    """Move the protocol off the standard streams, so that no program can reach it by printing, and serve."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    disarm()
    for name in WARM:
        importlib.import_module(name)
    with suppress(BrokenPipeError):
        serve(requests, replies, sys.argv[1])


if __name__ == "__main__":
    main()
