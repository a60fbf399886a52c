"""Which samples each process takes at each step, and what becomes of a worker that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longilesion.errors import InputError
from test.unit.test_dataset import RECIPE, all_samples
from training.dataset import CachedLesions
from training.loading import Share, _check_shared_memory, batches, sample_indices
from training.parallel import DeadWorkerError
from training.recipe import AugmentationSettings, SpatialAugmentation
from training.samples import Sample


@given(
    batch=st.integers(1, 6),
    processes=st.integers(1, 3),
    workers=st.integers(0, 3),
    batches_of_block=st.integers(1, 4),
)
def test_processes_and_workers_together_take_every_sample_once(
    batch: int, processes: int, workers: int, batches_of_block: int
) -> None:
    batch *= processes
    lanes = processes * max(workers, 1)
    steps = range(max(workers, 1) * batches_of_block * processes * 2)
    block = batch * batches_of_block
    taken = [
        index
        for rank in range(processes)
        for step in steps
        for index in sample_indices(block, batch, Share(rank=rank, processes=processes, workers=workers), step=step)
    ]
    assert sorted(taken) == list(range(len(steps) * batch))
    # No block is drawn by two workers.
    owners: dict[int, set[int]] = {}
    for rank in range(processes):
        for step in steps:
            share = Share(rank=rank, processes=processes, workers=workers)
            for index in sample_indices(block, batch, share, step=step):
                owners.setdefault(index // block, set()).add(rank * max(workers, 1) + step % max(workers, 1))
    assert all(len(lane) == 1 for lane in owners.values())
    assert len(set(chain(*owners.values()))) == lanes


def test_cached_samples_of_all_processes_are_those_of_one() -> None:
    for step in range(5):
        alone = sample_indices(1, 8, Share(), step=step)
        together = [
            index
            for rank in range(4)
            for index in sample_indices(1, 8, Share(rank=rank, processes=4, workers=2), step=step)
        ]
        assert together == alone == list(range(8 * step, 8 * step + 8))


class Numbers(CachedLesions):
    """Always the same lesion, under the sample's number; four samples are drawn together where that is wanted."""

    def __init__(self, sample: Sample, *, failing: str = "", drawn_together: int = 1) -> None:
        self.sample, self.failing, self.drawn_together = sample, failing, drawn_together

    def __getitem__(self, index: int) -> Sample:
        if index == 6 and self.failing == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 6 and self.failing == "is refused":
            raise InputError("lesion 6: no such thing; expected another")
        if index == 6 and self.failing == "has a bug":
            raise RuntimeError("sizes 3 and 4 do not match")
        return replace(self.sample, seed=index, origin=str(index))


TURNING = RECIPE.model_copy(
    update={"augmentation": AugmentationSettings(joint=SpatialAugmentation(mirror_axes=("z", "y", "x")))}
)


@pytest.mark.parametrize(("workers", "drawn_together"), [(0, 1), (0, 4), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_resumed_stream_goes_on_with_the_very_same_batches(workers: int, drawn_together: int) -> None:
    lesions = Numbers(all_samples()[0][1], drawn_together=drawn_together)
    share = Share(workers=workers)
    whole = list(batches(lesions, TURNING, share, steps=range(7)))
    rest = list(batches(lesions, TURNING, share, steps=range(3, 7)))
    assert len({origin for batch in whole for origin in batch.origins}) == 14
    assert [batch.origins for batch in rest] == [batch.origins for batch in whole[3:]]
    for one, two in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.input.followup, two.input.followup)
    # Augmentation turns the same lesion in several ways.
    assert len({batch.input.followup.numpy().tobytes() for batch in whole}) > 3


def test_worker_that_dies_ends_the_stream_with_what_to_do() -> None:
    lesions = Numbers(all_samples()[0][1], failing="dies")
    with pytest.raises(DeadWorkerError) as caught:
        list(batches(lesions, RECIPE, Share(workers=1), steps=range(8)))
    assert str(caught.value).endswith("; run again to resume, with fewer --workers if memory was short")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_refuses_is_said_as_if_there_were_none(workers: int) -> None:
    lesions = Numbers(all_samples()[0][1], failing="is refused")
    with pytest.raises(InputError, match=r"^lesion 6: no such thing; expected another$"):
        list(batches(lesions, RECIPE, Share(workers=workers), steps=range(8)))


def test_bug_in_a_worker_shows_its_traceback() -> None:
    lesions = Numbers(all_samples()[0][1], failing="has a bug")
    with pytest.raises(RuntimeError, match="sizes 3 and 4 do not match") as caught:
        list(batches(lesions, RECIPE, Share(workers=1), steps=range(8)))
    assert "Traceback" in str(caught.value)
    assert "in __getitem__" in str(caught.value)
    assert "run again to resume" not in str(caught.value)


PROGRAM = """
from test.unit.test_loading import RECIPE, Numbers, Share, all_samples, batches

if __name__ == "__main__":
    stream = batches(Numbers(all_samples()[0][1]), RECIPE, Share(workers=1), steps=range(8))
    next(stream)
    raise RuntimeError("a bug in a step")
"""


def test_program_that_fails_while_its_stream_is_open_ends(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, tmp_path / "program.py"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "RuntimeError: a bug in a step"


@pytest.mark.slow
def test_shared_memory_too_small_for_the_batches_is_refused_before_any_worker_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two streams of 4 channels and a target, 2 samples, 4 batches ahead for each of 2 workers.
    wanted = 4 * 16 * 32 * 32 * 9 * 2 * 4 * 2
    lesions = Numbers(all_samples()[0][1])
    monkeypatch.setattr("training.loading._SHARED_MEMORY", tmp_path)
    room = wanted - 1
    monkeypatch.setattr("training.loading.shutil.disk_usage", lambda _: SimpleNamespace(free=room))
    with pytest.raises(InputError, match="9 MB for the batches of 2 workers; expected 9 MB") as caught:
        next(batches(lesions, RECIPE, Share(workers=2), steps=range(3)))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    # Without workers nothing goes through it.
    assert len(next(batches(lesions, RECIPE, Share(), steps=range(3))).origins) == 2
    room = wanted
    assert len(next(batches(lesions, RECIPE, Share(workers=2), steps=range(3))).origins) == 2


@pytest.mark.parametrize(("processes", "machines"), [(3, 1), (2, 2)])
def test_shared_memory_of_a_machine_has_to_do_for_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, machines: int
) -> None:
    # Two samples for each process, whatever other machines there are.
    recipe = RECIPE.model_copy(update={"batch_size": 2 * processes * machines})
    wanted = processes * 4 * 16 * 32 * 32 * 9 * 2 * 4
    lesions = Numbers(all_samples()[0][1])
    share = Share(rank=1, processes=processes * machines, workers=1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr("training.loading._SHARED_MEMORY", tmp_path)
    room = wanted - 1
    monkeypatch.setattr("training.loading.shutil.disk_usage", lambda _: SimpleNamespace(free=room))
    found = f"MB for the batches of 1 workers of each of {processes} processes; expected {wanted / 1e6:.0f} MB"
    with pytest.raises(InputError, match=found):
        next(batches(lesions, recipe, share, steps=range(3)))
    room = wanted
    _check_shared_memory(recipe, share, prefetched=3)
