"""A service of cases: the same as a process for each case, whatever comes between two of them."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import process
from longilesion import service
from longilesion.program import run_program
from test.cases import CASES
from test.unit.case_folders import files_under, write_case, write_image, write_points
from test.unit.serving import DEADLINE_S, ask, forked, free_port, wait_until

OPTIONS = ("--device", "cpu", "--precision", "float32")
FOLLOWUP = "images/primary-followup-ct/scan.mha"
CLICKS = "primary-followup-lesion-clicks.json"

pytestmark = pytest.mark.usefixtures("restored_logging")


@dataclass(frozen=True, kw_only=True)
class Server:
    """process.py --serve as a program, and the folders that it reads and writes."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def run(self, case: Path) -> tuple[int, str]:
        """Runs a case as the platform does: the folders of before are reset."""
        (self.folder / "input").unlink(missing_ok=True)
        (self.folder / "input").symlink_to(case)
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        return ask(self.port, "POST", "/invoke")

    def said(self, stream: str) -> list[str]:
        return (self.folder / stream).read_text().splitlines()

    def contents(self) -> dict[str, bytes]:
        return {name: (self.output / name).read_bytes() for name in files_under(self.output)}


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(bundle, tmp_path_factory.mktemp("server")) as running:
        yield running


def words(case: Path, output: Path, bundle: Path) -> list[str]:
    return ["--input", str(case), "--output", str(output), "--model", str(bundle), *OPTIONS]


class started:  # noqa: N801
    """A context with a server; that it ends on SIGTERM, silently, is checked at its end."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder

    def __enter__(self) -> Server:
        port = free_port()
        with open(self.folder / "stdout", "wb") as out, open(self.folder / "stderr", "wb") as err:
            places = words(self.folder / "input", self.folder / "output", self.bundle)
            command = [sys.executable, process.__file__, "--serve", "--port", str(port), *places]
            running = subprocess.Popen(command, stdout=out, stderr=err)
        self.server = Server(folder=self.folder, port=port, process=running)
        wait_until(lambda: running.poll() is not None or ask(port, "GET", "/health") == (200, "ready"))
        assert running.poll() is None, self.server.said("stderr")
        return self.server

    def __exit__(self, *_: object) -> None:
        errors = self.server.said("stderr")
        self.server.process.terminate()
        assert self.server.process.wait(timeout=DEADLINE_S) == 0
        assert self.server.said("stderr") == errors


def without_seconds(lines: list[str]) -> list[str]:
    return [re.sub(r"[\d.]+ s\b", "S", line) for line in lines]


def test_served_cases_are_those_of_a_process_each(
    server: Server, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The samples of the four interfaces, with bad cases between them."""
    bad = write_case(tmp_path / "bad")
    (bad / FOLLOWUP).write_bytes((bad / FOLLOWUP).read_bytes()[:-20])
    doubtful = write_case(tmp_path / "doubtful", followup_clicks={"1": (500, 4, 3)})
    samples = [CASES / f"interface_{number}" / "input" for number in (1, 2, 3, 4)]
    lengths = [len(server.said(stream)) for stream in ("stdout", "stderr")]
    for number, case in enumerate([samples[0], bad, samples[1], doubtful, samples[2], tmp_path / "none", samples[3]]):
        status, line = server.run(case)
        said = [server.said(stream)[length:] for stream, length in zip(("stdout", "stderr"), lengths, strict=True)]
        lengths = [length + len(new) for length, new in zip(lengths, said, strict=True)]
        capfd.readouterr()
        shutil.rmtree(tmp_path / "output", ignore_errors=True)
        # The same paths, which the streams name.
        link = tmp_path / "input"
        link.unlink(missing_ok=True)
        link.symlink_to(case)
        code = process.main(words(link, tmp_path / "output", bundle))
        captured = capfd.readouterr()
        assert status == (201 if code == 0 else 500), number
        expected = [
            text.replace(f"{tmp_path}/output", str(server.output)).replace(str(link), f"{server.folder}/input")
            for text in (captured.out, captured.err)
        ]
        steps, errors = (text.splitlines() for text in expected)
        assert steps.pop(0).startswith("loaded ")
        assert without_seconds(said[0]) == without_seconds(steps)
        assert said[1] == errors
        assert line == ("done" if code == 0 else errors[-1])
        files = {name: (tmp_path / "output" / name).read_bytes() for name in files_under(tmp_path / "output")}
        assert server.contents() == files
        assert bool(files) == (code == 0)


def test_case_that_needs_too_much_memory_leaves_none_behind(server: Server, tmp_path: Path) -> None:
    """The limit stays, so that the next case has no more memory than this one."""
    large = write_case(tmp_path / "large")
    write_image(large / FOLLOWUP, np.zeros((500, 500, 500), np.int16))
    small = write_case(tmp_path / "small")
    assert server.run(small)[0] == 201
    expected = server.contents()
    pid = server.process.pid
    data = int(re.search(r"VmData:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
    before = resource.prlimit(pid, resource.RLIMIT_DATA)
    resource.prlimit(pid, resource.RLIMIT_DATA, (data + (150 << 20), before[1]))
    try:
        status, line = server.run(large)
        assert (status, line.startswith("not enough memory")) == (500, True)
        assert files_under(server.output) == []
        assert server.run(small)[0] == 201
        assert server.contents() == expected
    finally:
        resource.prlimit(pid, resource.RLIMIT_DATA, before)


def test_second_request_is_refused_while_a_case_is_run(server: Server, tmp_path: Path) -> None:
    case = write_case(tmp_path / "in")
    (case / CLICKS).unlink()
    # Reading waits until somebody writes.
    os.mkfifo(case / CLICKS)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(server.run, case)
        # Opening for writing succeeds once the case is being read.
        writer = os.open(case / CLICKS, os.O_WRONLY)
        assert ask(server.port, "POST", "/invoke") == (503, "another case is being run; expected one at a time")
        assert ask(server.port, "GET", "/health") == (200, "ready")
        os.write(writer, write_points(tmp_path / "points.json", {"1": (5.0, 4.0, 3.0)}).read_bytes())
        os.close(writer)
        assert first.result() == (201, "done")
    assert server.run(write_case(tmp_path / "next")) == (201, "done")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/invoke/", 404),
        ("GET", "/../health", 404),
        ("GET", "/invoke", 405),
        ("PUT", "/invoke", 405),
        ("POST", "/health", 405),
        ("HEAD", "/health", 405),
        ("BREW", "/invoke", 501),
        ("GET", "/health?now", 200),
    ],
)
def test_other_paths_and_methods_are_refused(server: Server, method: str, path: str, status: int) -> None:
    assert ask(server.port, method, path)[0] == status


def test_large_bodies_and_those_of_unknown_length_are_refused_unread(server: Server) -> None:
    assert ask(server.port, "POST", "/invoke", b"", **{"Content-Length": str(1 << 40)})[0] == 413
    assert ask(server.port, "POST", "/invoke", b"", **{"Content-Length": "-1"})[0] == 411
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"POST /invoke HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 411 ")


def test_requests_follow_each_other_on_a_connection(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"POST /none HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /health HTTP/1.1\r\n\r\n")
        wanted = time.monotonic() + DEADLINE_S
        received = b""
        while b"ready" not in received:
            received += connection.recv(1000)
            assert time.monotonic() < wanted
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"404", b"200"]


def test_only_this_machine_is_served_and_a_port_that_is_taken_is_said(
    server: Server, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{server.port:04X} 00000000:0000 0A" in listening
    assert process.main(["--serve", "--model", str(bundle), "--port", str(server.port)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"127.0.0.1:{server.port}: Address already in use; expected an address that is free"


# ----------------------------------------------------------------------------------- jobs of any kind, in this process


def serving(load: Callable[[], Callable[[], object]], client: Callable[[int], None], *, end: bool = True) -> int:
    """The exit code of a service in this process, which a client uses from a thread, and then ends by SIGTERM."""
    port = free_port()
    errors: list[BaseException] = []

    def use() -> None:
        try:
            wait_until(lambda: ask(port, "GET", "/")[0] == 404)
            client(port)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)
        finally:
            if end:
                os.kill(os.getpid(), signal.SIGTERM)

    # The signal may come when the service has failed.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    thread = threading.Thread(target=use)
    thread.start()
    code = run_program(lambda: partial(service.serve, load, host="127.0.0.1", port=port), needs_stdout=False)
    thread.join()
    signal.signal(signal.SIGTERM, before)
    assert errors == []
    return code


def test_health_is_said_once_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "_HEALTH_WAIT_S", 0.05)
    loaded = threading.Event()

    def load() -> Callable[[], None]:
        assert loaded.wait(DEADLINE_S)
        return lambda: None

    def client(port: int) -> None:
        wait_until(lambda: ask(port, "GET", "/health") == (503, "the model is being loaded"))
        assert ask(port, "POST", "/invoke") == (503, "the model is being loaded")
        loaded.set()
        wait_until(lambda: ask(port, "GET", "/health") == (200, "ready"))
        assert ask(port, "POST", "/invoke") == (201, "done")

    assert serving(load, client) == 0
    assert capfd.readouterr().err == ""


def test_model_that_cannot_be_loaded_ends_the_service_with_one_line(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "model")
    (damaged / "settings.json").write_text("{")
    assert process.main(["--serve", "--model", str(damaged), "--port", str(free_port())]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert str(damaged) in line


FAILURES = {
    "bug": (ZeroDivisionError("two\nlines"), "unexpected ZeroDivisionError: two lines (test_service.py, line "),
    "memory": (MemoryError(), "not enough memory (MemoryError)"),
    "no exception of Python's usual kind": (GeneratorExit(), "unexpected GeneratorExit"),
}


class Large:
    """Stands for the arrays of a case."""


@pytest.mark.parametrize("kind", FAILURES)
def test_error_of_a_case_is_one_line_and_the_next_one_is_run(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    error, expected = FAILURES[kind]
    outcomes: Iterator[BaseException | None] = iter([None, error, None])
    arrays: list[weakref.ref[Large]] = []

    def job() -> None:
        # The frame refers to it, the error to the frame, and the list to itself.
        circle: list[object] = [Large()]
        circle.append(circle)
        arrays.append(weakref.ref(circle[0]))
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    def client(port: int) -> None:
        assert ask(port, "POST", "/invoke") == (201, "done")
        status, line = ask(port, "POST", "/invoke")
        assert status == 500
        assert line.startswith(expected)
        error.__traceback__ = None
        assert ask(port, "POST", "/invoke") == (201, "done")

    assert serving(lambda: job, client) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(expected)
    assert [array() for array in arrays] == [None, None, None]


def test_case_whose_client_has_left_is_stopped(capfd: pytest.CaptureFixture[str]) -> None:
    """A client leaves when the time of its case is over; the next one must not find its case, nor its outputs."""
    begun, ends = threading.Event(), []

    def job() -> None:
        begun.set()
        until = time.monotonic() + (DEADLINE_S if not ends else 0)
        try:
            while time.monotonic() < until:
                time.sleep(0.01)
        finally:
            ends.append(time.monotonic() >= until)

    def client(port: int) -> None:
        wait_until(lambda: ask(port, "GET", "/health")[0] == 200)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /invoke HTTP/1.1\r\n\r\n")
            assert begun.wait(DEADLINE_S)
        # Refused until the service knows; by then it waits for the case to stop.
        wait_until(lambda: ask(port, "POST", "/invoke") == (201, "done"))

    assert serving(lambda: job, client) == 0
    assert ends == [False, True]
    assert capfd.readouterr().err.splitlines() == ["stopped, as its client has left"]


def test_signal_that_a_library_hides_ends_the_service_after_the_case(capfd: pytest.CaptureFixture[str]) -> None:
    def job() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            return

    answers = []
    code = serving(lambda: job, lambda port: answers.append(ask(port, "POST", "/invoke")), end=False)
    assert code == 128 + signal.SIGTERM
    assert answers in ([(201, "done")], [(0, "")])
    assert capfd.readouterr().err == "stopped by SIGTERM before the end\n"


# ------------------------------------------------------------------------------------------------------------- signals


def stopped_at(call: int | None, folder: Path, case: Path, bundle: Path) -> Callable[[int], int]:
    """A server that gets SIGTERM at that call of a function within its case, or at its end if there are fewer.

    It counts them in a file.
    """

    def main(port: int) -> int:
        from longilesion import case_run

        run_case = case_run.run_case
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            if event == "call":
                calls += 1
                if calls == call:
                    os.kill(os.getpid(), signal.SIGTERM)

        def counted(*arguments: object, **options: object) -> None:
            sys.setprofile(count)
            try:
                run_case(*arguments, **options)
            finally:
                sys.setprofile(None)
                (folder / "calls").write_text(str(calls))
            if call is not None and calls < call:
                os.kill(os.getpid(), signal.SIGTERM)

        case_run.run_case = counted
        return process.main(["--serve", "--port", str(port), *words(case, folder / "output", bundle)])

    return main


def test_signal_at_any_point_of_a_case_leaves_all_of_its_maps_or_none(bundle: Path, tmp_path: Path) -> None:
    case = write_case(tmp_path / "in", secondary=("followup",))
    # The checks of types are made at the first call of a function, under a lock, where no signal should come.
    assert process.main(words(case, tmp_path / "first", bundle)) == 0
    whole = tmp_path / "whole"
    with forked(stopped_at(None, whole, case, bundle), whole) as child:
        wait_until(child.is_healthy)
        assert ask(child.port, "POST", "/invoke")[0] == 201
        os.kill(child.pid, signal.SIGTERM)
        # Idle: nothing was interrupted.
        assert child.ended() == 0
        assert child.said("stderr") == []
    expected = {name: (whole / "output" / name).read_bytes() for name in files_under(whole / "output")}
    assert len(expected) == 2
    calls = int((whole / "calls").read_text())
    left = []
    for part in range(10):
        folder = tmp_path / str(part)
        # The last one comes when everything is written.
        call = 1 + (calls - 1) * part // 9
        with forked(stopped_at(call, folder, case, bundle), folder) as child:
            wait_until(child.is_healthy)
            status, _ = ask(child.port, "POST", "/invoke")
            assert status == 0, part
            assert child.ended() == 128 + signal.SIGTERM
            assert child.said("stderr") == ["stopped by SIGTERM before the end"]
        files = {name: (folder / "output" / name).read_bytes() for name in files_under(folder / "output")}
        assert files in ({}, expected), part
        left.append(bool(files))
    assert (left[0], left[-1]) == (False, True)


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.slow
def test_two_hundred_cases_take_no_more_memory_than_the_first_ones(bundle: Path, tmp_path: Path) -> None:
    """Resident memory after 40 cases, good ones and bad ones, and after 200: at most 4 MB more, 25 KB a case."""
    good = write_case(tmp_path / "good")
    bad = write_case(tmp_path / "bad")
    (bad / FOLLOWUP).write_bytes((bad / FOLLOWUP).read_bytes()[:-20])
    with started(bundle, tmp_path) as server:

        def run(count: int) -> int:
            for number in range(count):
                case, expected = (bad, 500) if number % 10 == 9 else (good, 201)
                assert server.run(case)[0] == expected
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

        warm = run(40)
        assert run(160) - warm < 4 * 1024
