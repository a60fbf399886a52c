"""What lies in a run's folder is whole, or it is not there."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from longilesion.errors import InputError
from test.unit.training_runs import write_recipe
from training.recipe import read_recipe
from training.run_folder import (
    RunFolder,
    RunRecord,
    RunSummary,
    begin_or_resume,
    is_finished,
    package_versions,
    read_checkpoint,
    read_record,
    write_checkpoint,
    write_summary,
)
from training.run_log import RunLog, read_log

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return RunRecord(
        recipe=read_recipe(write_recipe(tmp_path / "tiny.toml")),
        data="phantoms",
        fold=None,
        seed=3,
        steps=8,
        weights=None,
        processes=1,
        workers=0,
        versions=package_versions(),
    )


@pytest.fixture
def _small_disk() -> Iterator[None]:
    """No file can grow beyond 64 kB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_checkpoint_read_back_is_the_one_that_was_written(folder: RunFolder) -> None:
    assert read_checkpoint(folder, CPU) is None
    state = {"network": {"a": torch.arange(5.0)}, "progress": {"step": 3, "sums": {"loss": 0.5}}}
    write_checkpoint(folder, state)
    back = read_checkpoint(folder, CPU)
    assert back is not None
    assert torch.equal(back["network"]["a"], state["network"]["a"])
    assert back["progress"] == state["progress"]


@pytest.mark.usefixtures("_small_disk")
def test_full_disk_leaves_the_checkpoint_before_as_it_was(folder: RunFolder) -> None:
    write_checkpoint(folder, {"step": 1})
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_checkpoint(folder, {"step": 2, "network": torch.zeros(100_000)})
    assert str(folder.checkpoint) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_checkpoint(folder, CPU) == {"step": 1}
    assert [path.name for path in folder.path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"half"])
def test_damaged_checkpoint_is_refused_in_one_line(folder: RunFolder, content: bytes) -> None:
    write_checkpoint(folder, {"step": 1, "network": torch.zeros(1000)})
    whole = folder.checkpoint.read_bytes()
    folder.checkpoint.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged") as caught:
        read_checkpoint(folder, CPU)
    assert "\n" not in str(caught.value)


def test_checkpoint_that_would_run_code_is_refused(folder: RunFolder) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return Path.touch, (folder.path / "harmed",)

    folder.path.mkdir()
    torch.save({"step": Harmful()}, folder.checkpoint)
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(folder, CPU)
    assert not (folder.path / "harmed").exists()


def test_record_read_back_is_the_one_that_was_written(folder: RunFolder, record: RunRecord) -> None:
    begin_or_resume(folder, record)
    assert read_record(folder) == record
    begin_or_resume(folder, record)
    newer = record.model_copy(update={"versions": {**record.versions, "torch": "99"}})
    begin_or_resume(folder, newer)
    with pytest.raises(InputError, match="begun with seed = 3, now 4; expected the same run, or another --output"):
        begin_or_resume(folder, record.model_copy(update={"seed": 4}))
    with pytest.raises(InputError, match="and 1 more differ"):
        begin_or_resume(folder, record.model_copy(update={"seed": 4, "data": "others"}))


def test_checkpoint_of_an_unknown_run_is_left_alone(folder: RunFolder, record: RunRecord) -> None:
    write_checkpoint(folder, {"step": 1})
    with pytest.raises(InputError, match=r"a checkpoint without run\.json; expected an empty folder"):
        begin_or_resume(folder, record)


@pytest.mark.parametrize("content", ["", "{}", '{"seed": 1}'])
def test_damaged_record_is_refused_in_one_line(folder: RunFolder, record: RunRecord, content: str) -> None:
    begin_or_resume(folder, record)
    folder.record.write_text(content)
    with pytest.raises(InputError, match=r"run\.json: ") as caught:
        read_record(folder)
    assert "\n" not in str(caught.value)


def test_log_of_a_killed_run_goes_on_from_its_last_checkpoint(folder: RunFolder) -> None:
    run_log = RunLog(folder, step=0)
    for step in range(1, 6):
        run_log.training(step, {"loss": 1.0 / step, "seconds": 0.1})
    run_log.validation(4, {"dice": 0.25})
    run_log.close()
    with folder.metrics.open("a") as file:
        file.write("6,0.1")
    again = RunLog(folder, step=3)
    again.training(4, {"loss": 0.75, "seconds": 0.2})
    again.close()
    assert [(row["step"], row["loss"]) for row in read_log(folder.metrics)] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3, rel=1e-5)),
        (4, 0.75),
    ]
    assert read_log(folder.validation) == []


def test_log_that_cannot_be_written_ends_the_run_in_one_line(folder: RunFolder) -> None:
    run_log = RunLog(folder, step=0)
    folder.metrics.mkdir()
    with pytest.raises(InputError, match="expected a log that can be written to") as caught:
        run_log.training(1, {"loss": 1.0})
    assert str(folder.metrics) in str(caught.value)
    assert "\n" not in str(caught.value)
    run_log.close()


def many_steps(run_log: RunLog) -> None:
    for step in range(20_000):
        run_log.training(step, {"loss": 1.0 / (step + 1)})


@pytest.mark.usefixtures("_small_disk")
def test_full_disk_ends_the_log_in_one_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    # TensorBoard's own file is written by a thread, which would die of it whenever it likes.
    monkeypatch.setattr("training.run_log.SummaryWriter", MagicMock())
    run_log = RunLog(folder, step=0)
    with pytest.raises(InputError, match="expected a log that can be written to") as caught:
        many_steps(run_log)
    assert str(folder.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_log_of_something_else_is_refused_in_one_line(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.metrics.write_text("step,loss\nmonday,1.0\n")
    for read in (lambda: read_log(folder.metrics), lambda: RunLog(folder, step=1)):
        with pytest.raises(InputError, match=r"metrics\.csv: ") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_run_is_finished_when_all_its_steps_are_done_and_its_weights_are_there(folder: RunFolder) -> None:
    ended = RunSummary(
        steps=8,
        planned_steps=8,
        minutes=0.1,
        best_step=None,
        best_challenge_dice=None,
        skipped_steps=0,
        damaged_cut_outs=0,
    )
    assert not is_finished(folder)
    write_summary(folder, ended)
    assert not is_finished(folder)
    folder.last.mkdir()
    (folder.last / "settings.json").write_text("{}")
    assert is_finished(folder)
    write_summary(folder, ended.model_copy(update={"steps": 7}))
    assert not is_finished(folder)


def test_run_begun_with_the_layout_of_an_older_version_is_refused_in_one_line(
    folder: RunFolder, record: RunRecord
) -> None:
    begin_or_resume(folder, record)
    content = json.loads(folder.record.read_text())
    network = content["recipe"]["model"]["network"]
    network.update(network.pop("unet"))
    folder.record.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"run\.json: recipe\.model\.network: .*expected it in the table unet"
    ) as caught:
        read_record(folder)
    assert "\n" not in str(caught.value)
