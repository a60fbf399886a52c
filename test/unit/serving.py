"""Clients of the service, and services that run in processes of their own."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# A service that has not answered by then hangs.
DEADLINE_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """The status and the line of an answer; 0 where the connection broke off."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().rstrip("\n")
    except (ConnectionError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True)
class Forked:
    """A child of this process, which has imported everything already."""

    pid: int
    port: int
    folder: Path

    def is_healthy(self) -> bool:
        return ask(self.port, "GET", "/health")[0] == 200

    def ended(self) -> int:
        """Waits for the end, and returns the exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self, stream: str) -> list[str]:
        return (self.folder / stream).read_text().splitlines()


@contextmanager
def forked(main: Callable[[int], int], folder: Path) -> Iterator[Forked]:
    """Runs a program that serves at a port in a child, with its streams in files; it is killed if it is still there."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            for name, stream in (("stdout", sys.__stdout__), ("stderr", sys.__stderr__)):
                descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(descriptor, 1 if name == "stdout" else 2)
                # As in a program of its own, and not as the test runner has it.
                setattr(sys, name, stream)
            code = main(port)
        finally:
            os._exit(code)
    try:
        yield Forked(pid=pid, port=port, folder=folder)
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
