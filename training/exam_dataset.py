"""Training samples of a detector: windows of cached exams, with all lesions of the follow-up as the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt16
from torch.utils.data import Dataset

from longilesion.errors import InputError
from longilesion.geometry import ZYX, box_slices
from training.exam_cache import CachedExam
from training.exams import DamagedExamError, read_exam
from training.recipe import Recipe
from training.samples import Sample, sample_seed

# This many damaged exams in a row are a systematic error.
_DAMAGED_IN_A_ROW = 20


class CachedExams(Dataset[Sample]):
    """Windows of exams: every exam once per round, one window each.

    The window is the whole lattice where that has the size of the network's. Otherwise a share of the windows of exams
    with lesions shows at least the centre of one, and the rest lie anywhere.
    """

    # Samples do not depend on the process that draws them.
    drawn_together = 1

    def __init__(self, exams: Sequence[CachedExam], recipe: Recipe, *, seed: int) -> None:
        """Raises InputError where there is no exam."""
        if not exams:
            raise InputError("no exam to train on; expected some in the data set")
        self._exams, self._recipe, self._seed = tuple(exams), recipe, seed

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the run; a damaged exam is replaced by another one and noted in the sample."""
        count = len(self._exams)
        order = np.random.default_rng((self._seed, 0, index // count)).permutation(count)
        generator = np.random.default_rng((self._seed, 1, index))
        chosen = self._exams[int(order[index % count])]
        shape = self._recipe.jitter.lattice(self._recipe.model.voi).shape_zyx
        skipped: list[str] = []
        for _ in range(_DAMAGED_IN_A_ROW):
            try:
                exam = read_exam(chosen.path)
            except DamagedExamError as error:
                skipped.append(str(error))
                chosen = self._exams[int(generator.integers(count))]
                continue
            start = window_start(exam.ids, shape, generator, lesion_share=self._recipe.exams.lesion_share)
            box = box_slices(start, np.add(start, shape))
            target = (exam.ids[box] > 0).astype(np.float32)
            return Sample(
                pair=exam.window(box),
                target=target,
                is_present=bool(target.any()),
                seed=sample_seed(self._seed, index),
                origin=chosen.patient,
                skipped=tuple(skipped),
            )
        raise InputError(f"{skipped[-1]}; {_DAMAGED_IN_A_ROW} of them in a row")


def window_start(
    ids: UInt16[np.ndarray, "z y x"], shape_zyx: ZYX, generator: np.random.Generator, *, lesion_share: float
) -> ZYX:
    """The first voxel of a random window of a lattice that is at least as large; the share shows a lesion's centre."""
    room: Int[np.ndarray, "3"] = np.array(ids.shape) - shape_zyx
    low, high = np.zeros(3, int), room
    wanted = generator.random() < lesion_share
    if wanted and room.any() and ids.any():
        present = np.unique(ids[ids > 0])
        centre = np.argwhere(ids == generator.choice(present)).mean(axis=0).round().astype(int)
        low = np.clip(centre - shape_zyx + 1, 0, room)
        high = np.clip(centre, low, room)
    z, y, x = generator.integers(low, high + 1).tolist()
    return z, y, x
