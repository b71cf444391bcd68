"""Zygote: a process that has imported torch and nothing of a side; workers are forked from it. Started by `processes`.

Importing torch takes 1.3 to 2 s, which a repeat pays no second time. A fork is a fresh process in what a repeat is for:
both sides are imported and built anew, on a heap that begins elsewhere. What it shares with the others of its zygote is
where libraries lie and the seed of string hashes.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import signal
import socket
import sys
import traceback
import warnings
from contextlib import suppress
from typing import NoReturn

from gradgate.compare.priority import undisturbed

BALLAST = 1 << 20  # a worker's heap is moved by less than so many bytes: beyond a page, and beyond what one cache holds
_kept: list[bytearray] = []


def main() -> None:
    """Serve the socket given as the only argument until its other end is closed; then no worker is left either."""
    workers: set[int] = set()
    with socket.socket(fileno=int(sys.argv[1])) as channel, undisturbed():
        importlib.import_module("gradgate.compare.worker")  # and torch with it
        gc.freeze()
        try:
            while True:
                text, files, *_ = socket.recv_fds(channel, 1024, 3)
                if not text:
                    return
                channel.sendall(_reply(channel, workers, files, *text.decode().split()))
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


def _reply(channel: socket.socket, workers: set[int], files: list[int], request: str, what: str = "") -> bytes:
    """`fork`: the worker's process id. `load MODULE`: nothing. `reap PID`: how it ended, once it has."""
    if request == "load":
        with suppress(ImportError):
            importlib.import_module(what)
        gc.freeze()
        return b"0"
    if request == "reap":
        workers.discard(int(what))
        return str(os.waitstatus_to_exitcode(os.waitpid(int(what), 0)[1])).encode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: a library's idle ones hold no lock of ours
        pid = os.fork()
    if pid == 0:
        channel.close()
        _work(*files)
    workers.add(pid)
    for file in files:
        os.close(file)
    return str(pid).encode()


def _work(job: int, answers: int, output: int) -> NoReturn:
    """Be a worker, with the job on its standard input, and end as the interpreter itself would."""
    code = 1
    try:
        os.setsid()  # what a side starts ends with it
        for file, standard in ((job, 0), (output, 1), (output, 2)):
            os.dup2(file, standard)
        _kept.append(bytearray(random.randrange(BALLAST)))  # noqa: S311 - no secret
        from gradgate.compare import worker

        worker.main(answers)
        code = 0
    except BaseException:  # whatever it was, the client is told
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
