"""Entry and exit of a program: its standard streams, signals, memory limits, error message and exit code."""

from __future__ import annotations

import io
import logging
import mmap
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Handler: TypeAlias = Callable[[int, FrameType | None], Any]

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Messages by which NumPy, PyTorch, ITK and the loader of shared libraries report lack of memory without a MemoryError.
_OUT_OF_MEMORY = (
    "allocate memory",
    "bad_alloc",
    "out of memory",
    "failed to allocate",
    "failed to map segment",
    "can't start new thread",
)
# Memory that the libraries need while they are loaded; without it some of them abort, or retry without end.
_BYTES_TO_LOAD = 1 << 29
# Released when memory runs out, so that the error can still be reported.
_RESERVED_BYTES = 1 << 22

_log = logging.getLogger(__name__)


def run_program(load: Callable[[], Callable[[], object]], *, needs_stdout: bool) -> int:
    """Runs the job that `load` imports, and returns the exit code; any error is reported in one line on stderr.

    The code is 0 on success, 1 for an error, or 128 plus the signal's number where one stopped the program. Streams
    that are closed or full do not stop the job; the code is then 1 only if `needs_stdout` and printed output was lost.
    SystemExit (of a command line that cannot be parsed, of --help) is passed on to the caller.
    """
    stop = _Stop()
    with _lasting_streams() as stdout, handling(dict.fromkeys(ENDING_SIGNALS, stop.handle)):
        try:
            failure = failure_of(partial(_load_and_run, load, stop))
        except SystemExit as end:
            failure = None
            sys.stdout.flush()
            if stop.signal is None and (stdout is None or stdout.failure is None or end.code):
                raise
        except KeyboardInterrupt:
            failure = None
            # `stop.signal` is not set where another handler, or a test, has raised the exception.
            stop.signal = stop.signal or signal.SIGINT
        if stop.signal is not None:
            return fail(_stopped(stop.signal), code=128 + stop.signal)
        if failure is not None:
            return fail(failure)
        if stdout is not None and stdout.failure is not None:
            code = fail(f"standard output: {stdout.failure.strerror}; what was printed is lost, files are complete")
            return code if needs_stdout else 0
    return 0


def failure_of(job: Callable[[], object]) -> str | None:
    """Runs a job and returns the line that says why it failed, None where it did not.

    Memory is kept back to report a lack of it. KeyboardInterrupt and SystemExit are passed on to the caller.
    """
    reserve = bytearray(_RESERVED_BYTES)
    try:
        job()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the last line on stderr has to report any error
        del reserve
        return _described(error)
    return None


def fail(message: str, *, code: int = 1) -> int:
    """Writes a message to stderr as one line, and returns the exit code."""
    sys.stderr.write(" ".join(message.split()) + "\n")
    sys.stderr.flush()
    return code


@contextmanager
def handling(handlers: Mapping[signal.Signals, Handler]) -> Iterator[dict[int, Handler]]:
    """Handles signals in this context, but for those that are ignored; yields the handlers of before.

    Only the main thread may do so in Python; in others, nothing is changed.
    """
    before: dict[int, Any] = {}
    try:
        for number, handler in handlers.items() if threading.current_thread() is threading.main_thread() else ():
            previous = signal.getsignal(number)
            if previous is not signal.SIG_IGN:
                before[number] = previous
                signal.signal(number, handler)
        yield before
    finally:
        for changed, previous in before.items():
            signal.signal(changed, previous)


def _load_and_run(load: Callable[[], Callable[[], object]], stop: _Stop) -> None:
    _check_memory()
    job = load()
    stop.is_loading = False
    job()
    sys.stdout.flush()


class _Stop:
    """Ends the program on a signal: exits at once during the imports, and raises an exception afterwards.

    `signal` is kept, as a library may replace the exception by one of its own.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.is_loading = True

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.is_loading:
            # An import may swallow an exception, and there is nothing to clean up.
            fail(_stopped(number))
            os._exit(128 + number)
        self.signal = number
        raise KeyboardInterrupt


class _LastingStream(io.FileIO):
    """A file descriptor to which writing never fails; the first error is kept."""

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
    """Replaces Python's standard streams by lasting ones; yields that of stdout, None where a caller has replaced it.

    Descriptors that are closed are opened first: else the next opened file would get their number, and with it the
    messages that libraries write there.
    """
    # Opened for reading, so that writing to descriptor 1 fails as on a closed one.
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
    """A line-buffered text stream that can write any character."""
    encoding = sys.__stdout__.encoding if sys.__stdout__ is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(stream), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


def _check_memory() -> None:
    """Raises MemoryError where the memory limits of the process are too low to load the libraries; uses no memory."""
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
    # Imported late: pydantic takes long to load, and while this module is imported signals are not handled yet.
    from longilesion.errors import LongilesionError

    if isinstance(error, LongilesionError):
        return str(error)
    _log.info("unexpected error", exc_info=error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__}: {error} ({os.path.basename(place.filename)}, line {place.lineno})"


def _stopped(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name} before the end"
