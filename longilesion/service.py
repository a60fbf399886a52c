"""An HTTP server that runs a job for each request, one at a time: Grand Challenge's method invoke.

The job runs in the main thread, where Python handles signals, so that a signal stops it as in a program that runs it
once; requests are answered by threads of their own.
"""

from __future__ import annotations

import _thread
import gc
import logging
import select
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from types import FrameType

from longilesion.errors import InputError
from longilesion.program import ENDING_SIGNALS, fail, failure_of, handling

# The platform repeats a call that says 503 after 10 s, and one that takes 10 s at once: so loading is waited for, but
# not that long.
_HEALTH_WAIT_S = 5.0
# How often a waiting thread looks whether its client is there, and the main one whether a signal is.
_LOOK_S = 0.2
# The platform sends no body at all.
_MOST_BODY_BYTES = 1 << 16
_METHODS = {"/health": "GET", "/invoke": "POST"}

_log = logging.getLogger(__name__)


def serve(load: Callable[[], Callable[[], object]], *, host: str, port: int) -> None:
    """Runs the job that `load` returns for each POST /invoke until a signal comes; returns where that finds no case.

    `load` is called once, while GET /health says 503. Raises InputError where the address is not free.
    """
    service = _Service()
    with service.handling_signals(), _listening(service, host, port) as address:
        _log.info("serving at http://%s:%d", *address)
        service.run(load())


class _LeftAlone(KeyboardInterrupt):
    """The client of a case has left, as when its time is over; as with a signal, no library is to go on after it."""


class _Request:
    """A case that somebody waits for; `failure` is set before `done`."""

    def __init__(self) -> None:
        self.done = Event()
        self.is_left_alone = False
        self.failure: str | None = None


class _Service:
    """What threads that answer requests share with the main one, which runs them."""

    def __init__(self) -> None:
        self.is_ready = Event()
        self._waiting: SimpleQueue[_Request] = SimpleQueue()
        self._admission = Lock()
        self._last: _Request | None = None
        self._running: _Request | None = None
        self._is_idle = False
        self._is_ending = False
        self._ends: dict[int, Callable[[int, FrameType | None], object]] = {}

    # ----------------------------------------------------------------------------------------- threads of requests

    def admit(self) -> _Request | None:
        """A request that will be run next; None where another one is being run that somebody waits for."""
        with self._admission:
            if self._last is not None and not self._last.done.is_set():
                if not self._last.is_left_alone:
                    return None
                self._last.done.wait()
            self._last = _Request()
            self._waiting.put(self._last)
            return self._last

    def leave_alone(self, request: _Request) -> None:
        """Stops a request that nobody waits for any more."""
        request.is_left_alone = True
        # Runs the signal's handler in the main thread; does nothing where there is none.
        _thread.interrupt_main(signal.SIGUSR1)

    # ----------------------------------------------------------------------------------------------- the main thread

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Ends the service quietly on a signal while no case is run; in a case, leaves it to the handlers of before."""
        with handling(dict.fromkeys(ENDING_SIGNALS, self._end)) as self._ends, handling({signal.SIGUSR1: self._drop}):
            yield

    def run(self, job: Callable[[], object]) -> None:
        """Runs the job for each request, until a signal comes."""
        self.is_ready.set()
        while (request := self._next()) is not None:
            self._run(request, job)

    def _run(self, request: _Request, job: Callable[[], object]) -> None:
        try:
            self._running = request
            # Python gives a warning once for each place: so once for each case, as if each had a process.
            with warnings.catch_warnings():
                request.failure = failure_of(job)
        except _LeftAlone:
            request.failure = "stopped, as its client has left"
        finally:
            self._running = None
        if request.failure is not None:
            fail(request.failure)
        # Errors refer to frames, and these to the case, in circles.
        gc.collect()
        request.done.set()

    def _next(self) -> _Request | None:
        self._is_idle = True
        while not self._is_ending:
            try:
                # A signal wakes the main thread only where it is this one that gets it.
                request = self._waiting.get(timeout=_LOOK_S)
            except Empty:
                continue
            self._is_idle = False
            return None if self._is_ending else request
        return None

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True
        if not self._is_idle:
            self._ends[number](number, frame)

    def _drop(self, _number: int, _frame: FrameType | None) -> None:
        # The request that was left alone may have ended in the meantime.
        if self._running is not None and self._running.is_left_alone:
            raise _LeftAlone


@contextmanager
def _listening(service: _Service, host: str, port: int) -> Iterator[tuple[str, int]]:
    """Answers requests in threads; yields the address."""
    handler = type("Handler", (_Handler,), {"service": service})
    try:
        server = _Server((host, port), handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{host}:{port}: {reason}; expected an address that is free") from error
    with server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": _LOOK_S / 4}, daemon=True).start()
        try:
            yield host, server.server_port
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks concerns nobody else, and stderr is for cases."""
        _log.debug("request of %s", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    service: _Service
    protocol_version = "HTTP/1.1"
    # Seconds that a client may take to send its request, or the next one.
    timeout = 10.0

    def _answer_request(self) -> None:
        path = self.path.partition("?")[0]
        if not self._has_taken_body():
            return
        if path not in _METHODS:
            self._answer(HTTPStatus.NOT_FOUND, f"{path}: expected {' or '.join(_METHODS)}")
        elif self.command != _METHODS[path]:
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, f"expected {_METHODS[path]} {path}", Allow=_METHODS[path])
        elif not self.service.is_ready.wait(_HEALTH_WAIT_S if self.command == "GET" else 0):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "the model is being loaded")
        elif self.command == "GET":
            self._answer(HTTPStatus.OK, "ready")
        else:
            self._invoke()

    # The base class calls the one of the request's method, and says 501 where there is none.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer_request  # noqa: N815

    def _invoke(self) -> None:
        request = self.service.admit()
        if request is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "another case is being run; expected one at a time")
            return
        while not request.done.wait(_LOOK_S):
            if not request.is_left_alone and self._is_client_gone():
                self.service.leave_alone(request)
        if request.failure is None:
            self._answer(HTTPStatus.CREATED, "done")
        else:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, request.failure)

    def _has_taken_body(self) -> bool:
        """Reads the body, which nobody needs, so that the next request is found; or answers that it is refused."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self._answer(HTTPStatus.LENGTH_REQUIRED, "a body of unknown length; expected none", Connection="close")
        elif int(length) > _MOST_BODY_BYTES:
            most = f"a body of {length} bytes; expected none, or at most {_MOST_BODY_BYTES}"
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, most, Connection="close")
        else:
            self.rfile.read(int(length))
            return True
        return False

    def _is_client_gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _answer(self, status: HTTPStatus, line: str, **headers: str) -> None:
        content = f"{' '.join(line.split())}\n".encode()
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=utf-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing: what is on the streams is about cases."""
