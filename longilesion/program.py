"""The edges of a program: what its streams bear, how it is stopped, and how it ends, in one line and an exit code."""

from __future__ import annotations

import io
import logging
import mmap
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How NumPy, PyTorch, ITK and the loader of shared libraries say that memory ran out, where it is no MemoryError.
_OUT_OF_MEMORY = (
    "allocate memory",
    "bad_alloc",
    "out of memory",
    "failed to allocate",
    "failed to map segment",
    "can't start new thread",
)
# What the libraries take while they are loaded; where it is not there, some of them abort, or try again for ever.
_BYTES_TO_LOAD = 1 << 29
# Given back where memory runs out, so that there is some to say so.
_RESERVED_BYTES = 1 << 22

_log = logging.getLogger(__name__)


def run_program(load: Callable[[], Callable[[], object]], *, needs_stdout: bool) -> int:
    """Runs the job that `load` imports, and returns the exit code; whatever goes wrong is one line on stderr.

    The code is 0, 1 for an error, or 128 and the signal's number where one stopped the program. Streams that are closed
    or full stop nothing; the code is 1 only where `needs_stdout` and what the job printed was lost. SystemExit (of a
    command line that cannot be parsed, of --help) goes on to the caller.
    """
    reserve = bytearray(_RESERVED_BYTES)
    with _lasting_streams() as stdout, _Stop() as stop:
        try:
            _check_memory()
            job = load()
            stop.is_loading = False
            job()
            sys.stdout.flush()
        except SystemExit as end:
            sys.stdout.flush()
            if stop.signal is None and (stdout is None or stdout.failure is None or end.code):
                raise
        except KeyboardInterrupt:
            # Without a signal of ours where somebody else's handler, or a test, has raised it.
            stop.signal = stop.signal or signal.SIGINT
        except BaseException as error:  # noqa: BLE001 - whatever happens, the last line on stderr has to say what
            del reserve
            if stop.signal is None:
                return _fail(_described(error))
        if stop.signal is not None:
            return _fail(_stopped(stop.signal), code=128 + stop.signal)
        if stdout is not None and stdout.failure is not None:
            code = _fail(f"standard output: {stdout.failure.strerror}; what was printed is lost, files are complete")
            return code if needs_stdout else 0
    return 0


class _Stop:
    """Turns signals into an orderly end: at once while nothing but imports is going on, else by an exception.

    A library may replace the exception by one of its own; `signal` still tells. Ignored signals stay ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.is_loading = True
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Stop:
        # Python lets no other thread handle signals.
        for number in _SIGNALS if threading.current_thread() is threading.main_thread() else ():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.is_loading:
            # An exception may get lost in an import; and there is nothing to clean up.
            _fail(_stopped(number))
            os._exit(128 + number)
        self.signal = number
        raise KeyboardInterrupt


class _LastingStream(io.FileIO):
    """A file descriptor that takes whatever is written to it, and remembers why it could not pass it on."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.failure is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


@contextmanager
def _lasting_streams() -> Iterator[_LastingStream | None]:
    """Replaces Python's own streams by lasting ones and yields that of stdout, None where it is somebody else's.

    Descriptors that are closed are opened first: a file would get their number, and a library's messages.
    """
    # Writing to descriptor 1 shall fail as on a closed one.
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    before = sys.stdout, sys.stderr
    lasting = None
    if sys.stdout is sys.__stdout__:
        lasting = _LastingStream(1, "w", closefd=False)
        sys.stdout = _text(lasting)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_LastingStream(2, "w", closefd=False))
    try:
        yield lasting
    finally:
        sys.stdout, sys.stderr = before


def _text(stream: _LastingStream) -> io.TextIOWrapper:
    """Lines arrive as they are said, whatever characters they hold."""
    encoding = sys.__stdout__.encoding if sys.__stdout__ is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(stream), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


def _check_memory() -> None:
    """Raises MemoryError where the limits of the process do not let the libraries be loaded; touches no memory."""
    try:
        mmap.mmap(-1, _BYTES_TO_LOAD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"{_BYTES_TO_LOAD >> 20} MB cannot be had") from error


def _described(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or any(words in str(cause).lower() for words in _OUT_OF_MEMORY):
            reason = str(cause) or type(cause).__name__
            return f"not enough memory ({reason.splitlines()[0]}); expected more, or smaller scans"
        cause = cause.__cause__ or cause.__context__
    # Only now: what that module needs takes longer to load than a person to think again.
    from longilesion.errors import LongilesionError

    if isinstance(error, LongilesionError):
        return str(error)
    _log.info("unexpected error", exc_info=error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__}: {error} ({os.path.basename(place.filename)}, line {place.lineno})"


def _stopped(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name} before the end"


def _fail(message: str, *, code: int = 1) -> int:
    sys.stderr.write(" ".join(message.split()) + "\n")
    sys.stderr.flush()
    return code
