"""Which samples each process takes at each step, and what becomes of a worker that fails."""

from __future__ import annotations

import os
import signal
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
from training.loading import Share, batches, sample_indices
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


class Numbers(torch.utils.data.Dataset[Sample]):
    """Always the same lesion, under the sample's number; four samples are drawn together where that is wanted."""

    def __init__(self, sample: Sample, *, failing: str = "", drawn_together: int = 1) -> None:
        self.sample, self.failing, self.drawn_together = sample, failing, drawn_together

    def __getitem__(self, index: int) -> Sample:
        if index == 6 and self.failing == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 6 and self.failing == "is refused":
            raise InputError("lesion 6: no such thing; expected another")
        if index == 6 and self.failing == "has a bug":
            torch.zeros(3) @ torch.zeros(4)
        return replace(self.sample, seed=index, origin=str(index))


TURNING = RECIPE.model_copy(
    update={"augmentation": AugmentationSettings(joint=SpatialAugmentation(mirror_axes=("z", "y", "x")))}
)


@pytest.mark.parametrize(("workers", "drawn_together"), [(0, 1), (0, 4), (2, 4)])
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


@pytest.mark.parametrize(
    ("failing", "error"), [("dies", DeadWorkerError), ("is refused", InputError), ("has a bug", RuntimeError)]
)
def test_worker_that_fails_ends_the_stream_and_says_why(failing: str, error: type[Exception]) -> None:
    lesions = Numbers(all_samples()[0][1], failing=failing)
    with pytest.raises(error) as caught:
        list(batches(lesions, RECIPE, Share(workers=1), steps=range(8)))
    assert ("run again to resume" in str(caught.value)) == (failing == "dies")
    if failing == "has a bug":
        assert "inconsistent tensor size" in str(caught.value) or "size" in str(caught.value)
        assert "Traceback" in str(caught.value)
    else:
        assert "\n" not in str(caught.value)


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
