"""The edges of both programs, as processes: streams that are closed or full, signals, too little memory."""

import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import process
from longilesion.program import run_program
from test.unit.case_folders import files_under, write_case

COMMAND = "import sys; from longilesion.cli import main; sys.exit(main())"
OPTIONS = ("--device", "cpu", "--precision", "float32")
CLOSED = {
    "stdout": ">&-",
    "stderr": "2>&-",
    "both": ">&- 2>&-",
    "full stdout": ">/dev/full",
    "full stderr": "2>/dev/full",
}


def segment_words(case: Path, output: Path, bundle: Path) -> list[str]:
    followup, clicks = case / "images/primary-followup-ct/scan.mha", case / "primary-followup-lesion-clicks.json"
    named = {"followup": followup, "followup-clicks": clicks, "output": output / "map.nii.gz", "model": bundle}
    words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-c", COMMAND, "segment", *words, *OPTIONS]


def process_words(case: Path, output: Path, bundle: Path) -> list[str]:
    words = ["--input", str(case), "--output", str(output), "--model", str(bundle)]
    return [sys.executable, process.__file__, *words, *OPTIONS]


PROGRAMS = {"process.py": process_words, "longilesion segment": segment_words}


def in_shell(words: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("program", "stream"),
    [
        ("process.py", "both"),
        ("longilesion segment", "stderr"),
        ("longilesion segment", "full stdout"),
        pytest.param("process.py", "full stdout", marks=pytest.mark.slow),
        pytest.param("process.py", "stdout", marks=pytest.mark.slow),
        pytest.param("process.py", "stderr", marks=pytest.mark.slow),
        pytest.param("longilesion segment", "stdout", marks=pytest.mark.slow),
        pytest.param("longilesion segment", "both", marks=pytest.mark.slow),
    ],
)
def test_stream_that_takes_nothing_does_not_cost_the_map(
    tmp_path: Path, bundle: Path, program: str, stream: str
) -> None:
    output = tmp_path / "out"
    ended = in_shell(PROGRAMS[program](write_case(tmp_path / "in"), output, bundle), CLOSED[stream])
    is_lost = stream in ("stdout", "both", "full stdout")
    # The table is what the command is asked for; the lines of the container are not.
    assert ended.returncode == (1 if is_lost and program != "process.py" else 0)
    assert len(files_under(output)) == 1
    if stream in ("stdout", "full stdout"):
        (line,) = ended.stderr.splitlines()
        assert line.startswith("standard output: ")
    else:
        assert ended.stderr == ""


@pytest.mark.slow
def test_reader_of_the_table_that_leaves_early_is_one_line(tmp_path: Path, bundle: Path) -> None:
    words = segment_words(write_case(tmp_path / "in"), tmp_path / "out", bundle)
    ended = in_shell(words, '| true; exit "${PIPESTATUS[0]}"')
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["standard output: Broken pipe; what was printed is lost, files are complete"]
    assert files_under(tmp_path / "out") == ["map.nii.gz"]


@pytest.mark.parametrize(
    ("program", "number", "code"),
    [
        ("process.py", signal.SIGTERM, 143),
        ("process.py", signal.SIGINT, 130),
        ("longilesion segment", signal.SIGINT, 130),
    ],
)
def test_signal_while_torch_is_imported_is_one_line(
    tmp_path: Path, bundle: Path, program: str, number: signal.Signals, code: int
) -> None:
    words = PROGRAMS[program](write_case(tmp_path / "in"), tmp_path / "out", bundle)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        # By then the libraries are being loaded, whatever the machine: their files are mapped.
        while "libtorch" not in Path(f"/proc/{running.pid}/maps").read_text() and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(number)
        _, errors = running.communicate()
    assert running.returncode == code
    assert len(errors.splitlines()) == 1
    assert files_under(tmp_path / "out") == []


@pytest.mark.parametrize("limit_mb", [150, 450, pytest.param(700, marks=pytest.mark.slow)])
@pytest.mark.parametrize("program", PROGRAMS)
def test_too_little_memory_is_one_line(tmp_path: Path, bundle: Path, program: str, limit_mb: int) -> None:
    words = PROGRAMS[program](write_case(tmp_path / "in"), tmp_path / "out", bundle)
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (limit_mb << 20, limit_mb << 20))
    ended = subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=limit, timeout=60)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("not enough memory")
    assert files_under(tmp_path / "out") == []


def _raise(error: BaseException) -> None:
    raise error


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    RuntimeError("Exception thrown in SimpleITK ReadImage: std::bad_alloc"),
    RuntimeError("ITK ERROR: Failed to allocate memory for image."),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_libraries_that_run_out_of_memory_are_understood(
    capfd: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert run_program(lambda: partial(_raise, error), needs_stdout=True) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("not enough memory")


def test_interruption_that_a_library_turns_into_its_own_error_stays_one(capfd: pytest.CaptureFixture[str]) -> None:
    def job() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as stop:
            raise RuntimeError("the library failed") from stop

    assert run_program(lambda: job, needs_stdout=True) == 130
    assert capfd.readouterr().err == "interrupted\n"


def test_signal_that_is_ignored_stays_ignored(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_program(lambda: partial(signal.raise_signal, signal.SIGINT), needs_stdout=True) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""


def test_report_on_a_full_device_is_said_before_the_work(tmp_path: Path, bundle: Path) -> None:
    words = segment_words(write_case(tmp_path / "in"), tmp_path / "out", bundle)
    ended = in_shell([*words, "--report", "/dev/full"], "")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("/dev/full: ")
    assert files_under(tmp_path / "out") == []
