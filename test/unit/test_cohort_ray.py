"""Many cases by workers on Ray: the same results, also where workers are killed and machines are lost."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read when Ray is imported: this machine alone, as where the command starts Ray.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

from ray import cluster_utils

from longilesion.cli import cohort as command
from longilesion.cohort import on_ray
from longilesion.cohort.record import Outcome
from test.unit.cohorts import cohort, left_behind, lesions_of, maps, record, tables, write_cases
from test.unit.serving import free_port

pytestmark = pytest.mark.usefixtures("restored_logging")

STAGES = ("reading", "outlining", "writing")

# In each process of the cluster: a worker kills itself at the beginning of a stage of a case for which there is a file.
KILL = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "longilesion.cohort.worker":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec
        spec = find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            for stage, function in STAGES.items():
                setattr(module, function, killing(getattr(module, function), stage))
        spec.loader.exec_module = exec_module
        return spec

STAGES = {"reading": "fingerprint", "outlining": "segment_inputs", "writing": "write_report"}
FOLDER = os.environ.get("LONGILESION_TEST_KILL")

def killing(function, stage):
    def killed(*arguments, **options):
        text = repr((arguments, options)) + repr([getattr(each, "followup_files", "") for each in arguments])
        for name in os.listdir(FOLDER):
            kind, case, times = name.split(".")
            if kind == stage and case in text:
                if times == "once":
                    os.unlink(os.path.join(FOLDER, name))
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return killed

if FOLDER:
    sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(scope="module")
def kill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for files named STAGE.CASE.once or STAGE.CASE.always."""
    folder = tmp_path_factory.mktemp("kill")
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(KILL)
    repository = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{hook}:{repository}")
        patch.setenv("LONGILESION_TEST_KILL", str(folder))
        yield folder


@pytest.fixture(scope="module")
def cluster(kill: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two cores, as far as Ray knows."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    running = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 << 20},
    )
    yield running
    running.shutdown()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cohort") / "cases")


@pytest.fixture(scope="module")
def done(cases: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of them."""
    output = tmp_path_factory.mktemp("done")
    assert cohort(cases, output, bundle, "--one-process") == 1
    return output


def on(cluster: Any, cases: Path, output: Path, bundle: Path, *options: object) -> int:
    return cohort(cases, output, bundle, "--address", cluster.address, *options)


def assert_same(output: Path, done: Path) -> None:
    assert maps(output) == maps(done)
    assert tables(output) == tables(done)
    for case in sorted(done.glob("case*/report.json")):
        assert lesions_of(output / case.relative_to(done)) == lesions_of(case)
    assert left_behind(output) == []


def test_workers_make_what_one_process_makes(
    cluster: Any, cases: Path, bundle: Path, done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    assert on(cluster, cases, tmp_path, bundle, "--cores-per-worker", 1) == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines() == ["workers: 2, each with 1 cores", "4 of 5 cases done; 8 lesions"]
    assert captured.err == f"{tmp_path}: 1 of 5 cases failed (see above, and cases.csv); expected none\n"
    (line,) = [message for message in caplog.messages if message.startswith("case ")]
    assert line.startswith("case damaged: ")
    assert_same(tmp_path, done)
    # All of it is kept by the other way to run them.
    assert cohort(cases, tmp_path, bundle, "--one-process") == 1
    assert "4 of them by an earlier run" in capfd.readouterr().out


@pytest.mark.slow
def test_workers_that_are_killed_in_any_stage_cost_no_case(
    cluster: Any, kill: Path, cases: Path, bundle: Path, done: Path, tmp_path: Path
) -> None:
    for number, stage in enumerate(STAGES, start=1):
        (kill / f"{stage}.case{number}.once").touch()
    assert on(cluster, cases, tmp_path, bundle, "--cores-per-worker", 2) == 1
    # Each has been killed.
    assert list(kill.iterdir()) == []
    assert_same(tmp_path, done)


@pytest.mark.slow
def test_cases_that_always_cost_their_worker_are_the_only_ones_that_fail(
    cluster: Any, kill: Path, cases: Path, bundle: Path, done: Path, tmp_path: Path
) -> None:
    """Where one is read ahead, it costs the worker of another case, which has to be done all the same."""
    markers = [kill / "reading.case2.always", kill / "outlining.case3.always"]
    for marker in markers:
        marker.touch()
    try:
        assert on(cluster, cases, tmp_path, bundle, "--workers", 1) == 1
    finally:
        for marker in markers:
            marker.unlink()
    lost = ("case2/", "case3/")
    assert maps(tmp_path) == {name: content for name, content in maps(done).items() if not name.startswith(lost)}
    table = (tmp_path / "cases.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table[1:]] == ["done", "done", "failed", "failed", "failed"]
    assert all("its worker was killed" in line for line in table[3:5])
    assert on(cluster, cases, tmp_path, bundle, "--workers", 1) == 1
    assert_same(tmp_path, done)


@pytest.mark.slow
def test_run_that_is_interrupted_is_resumed_to_the_same_tables(
    cluster: Any, cases: Path, bundle: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = command._shown

    def interrupted(outcomes: Iterator[Outcome], *arguments: Any) -> Iterator[Outcome]:
        for number, outcome in enumerate(shown(outcomes, *arguments)):
            if number == 1:
                signal.raise_signal(signal.SIGINT)
            yield outcome

    with monkeypatch.context() as patch:
        patch.setattr(command, "_shown", interrupted)
        assert on(cluster, cases, tmp_path, bundle, "--workers", 1) == 128 + signal.SIGINT
    assert not (tmp_path / "lesions.csv").exists()
    finished = list(tmp_path.glob("*/case.json"))
    assert len(finished) >= 2
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert on(cluster, cases, tmp_path, bundle, "--workers", 1) == 1
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert_same(tmp_path, done)


def test_model_that_cannot_be_loaded_is_one_line(
    cluster: Any, cases: Path, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "model")
    (damaged / "settings.json").write_text("{")
    assert on(cluster, cases, tmp_path / "out", damaged, "--workers", 1) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{damaged}/settings.json: ")


def test_more_cores_than_any_machine_has_are_refused(
    cluster: Any, cases: Path, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert on(cluster, cases, tmp_path, bundle, "--cores-per-worker", 3) == 1
    assert capfd.readouterr().err == "--cores-per-worker 3: no machine has as many; expected fewer\n"


def test_address_where_nobody_listens_is_one_line(
    cases: Path, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert cohort(cases, tmp_path, bundle, "--address", address) == 1
    assert capfd.readouterr().err == (
        f"{address}: Connection refused; expected the address of a Ray cluster, such as HOST:6379\n"
    )


# In a process of its own, as Ray reads its settings once; prints where Ray runs, beside what the command says.
LOCAL = """
import sys
from longilesion import cli
from longilesion.cohort import workers

run_cases = workers.run_cases

def shown(cases, running):
    import ray
    print(*(node["NodeManagerAddress"] for node in ray.nodes()))
    yield from run_cases(cases, running)

workers.run_cases = shown
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_ray_of_this_machine_alone_listens_to_no_other(cases: Path, bundle: Path, done: Path, tmp_path: Path) -> None:
    """Also where the environment names a cluster."""
    words = ["cohort", cases, "--output", tmp_path, "--model", bundle, "--device", "cpu", "--precision", "float32"]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LONGILESION_"))}
    settings |= {"RAY_ADDRESS": f"127.0.0.1:{free_port()}", "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", LOCAL, *map(str, words), "--workers", "1"],
        env=settings, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    where, done_line = ended.stdout.splitlines()[-2:]
    assert (where, done_line) == ("127.0.0.1", "4 of 5 cases done; 8 lesions")
    assert_same(tmp_path, done)


def test_ray_that_does_not_start_is_given_up(
    cases: Path, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "START_S", 0.1)
    monkeypatch.setattr(on_ray.OnRay, "_hold", lambda *_: None)
    assert cohort(cases, tmp_path, bundle) == 1
    assert capfd.readouterr().err == (
        "this machine: Ray has not started within 0 s; expected it to, or --one-process\n"
    )


@pytest.mark.slow
def test_machine_that_is_lost_costs_no_case(
    cluster: Any, kill: Path, cases: Path, bundle: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second node is lost when the first case is done; its worker then has another one, or is being loaded."""
    second = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    shown = command._shown

    def losing(outcomes: Iterator[Outcome], *arguments: Any) -> Iterator[Outcome]:
        for number, outcome in enumerate(shown(outcomes, *arguments)):
            if number == 0:
                cluster.remove_node(second, allow_graceful=False)
            yield outcome

    monkeypatch.setattr(command, "_shown", losing)
    assert on(cluster, cases, tmp_path, bundle, "--cores-per-worker", 2) == 1
    assert record(tmp_path, "case3").state == "done"
    assert_same(tmp_path, done)
