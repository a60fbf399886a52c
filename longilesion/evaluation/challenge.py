"""The score of autoPET/CT IV, Task 2, and the rank of several submissions.

Every true lesion gives an entry for each predicted label that touches it by a voxel, or one of Dice 0 where none does;
every predicted label that touches no true lesion gives one more. A patient's score is the mean over entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from longilesion.evaluation.overlap import Overlap

RANK_WEIGHTS = {"dice": 0.5, "false_positive_ml": 0.25, "false_negative_ml": 0.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a patient's score."""

    dice: float
    false_positive_ml: float
    false_negative_ml: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeScore:
    """A patient's score; NaN, and left out of means, where there are neither true nor predicted lesions."""

    dice: float
    false_positive_ml: float
    false_negative_ml: float
    entries: int


def challenge_entries(overlap: Overlap, *, voxel_ml: float) -> list[Entry]:
    """The entries of one scan: those of its true lesions by id, then those of the labels that touch none."""
    touched = {label for _, label in overlap.shared}
    return [
        *(entry for true_id in overlap.truth for entry in lesion_entries(overlap, true_id, voxel_ml=voxel_ml)),
        *(
            Entry(dice=0.0, false_positive_ml=region.voxels * voxel_ml, false_negative_ml=0.0)
            for label, region in overlap.predicted.items()
            if label not in touched
        ),
    ]


def lesion_entries(overlap: Overlap, true_id: int, *, voxel_ml: float) -> list[Entry]:
    """The entries of one true lesion: one for each label that touches it, or one of Dice 0 if it was missed."""
    voxels = overlap.truth[true_id].voxels
    labels = [label for label in overlap.predicted if (true_id, label) in overlap.shared]
    if not labels:
        return [Entry(dice=0.0, false_positive_ml=0.0, false_negative_ml=voxels * voxel_ml)]
    return [
        Entry(
            dice=overlap.dice(true_id, label),
            false_positive_ml=(overlap.predicted[label].voxels - overlap.shared[true_id, label]) * voxel_ml,
            false_negative_ml=(voxels - overlap.shared[true_id, label]) * voxel_ml,
        )
        for label in labels
    ]


def challenge_score(entries: Sequence[Entry]) -> ChallengeScore:
    """The plain mean over a patient's entries, those of all its scans together."""
    if not entries:
        return ChallengeScore(dice=np.nan, false_positive_ml=np.nan, false_negative_ml=np.nan, entries=0)
    return ChallengeScore(
        dice=float(np.mean([entry.dice for entry in entries])),
        false_positive_ml=float(np.mean([entry.false_positive_ml for entry in entries])),
        false_negative_ml=float(np.mean([entry.false_negative_ml for entry in entries])),
        entries=len(entries),
    )


def rank_scores(submissions: Mapping[str, ChallengeScore]) -> dict[str, float]:
    """Half the rank by Dice and a quarter each of the ranks by false volumes; the lowest wins.

    Takes each submission's means over patients. Ties share the mean of their ranks; undefined values rank last.
    """
    ranks = {
        "dice": _ranks([-score.dice for score in submissions.values()]),
        "false_positive_ml": _ranks([score.false_positive_ml for score in submissions.values()]),
        "false_negative_ml": _ranks([score.false_negative_ml for score in submissions.values()]),
    }
    return {
        name: float(sum(weight * ranks[metric][place] for metric, weight in RANK_WEIGHTS.items()))
        for place, name in enumerate(submissions)
    }


def _ranks(values: Sequence[float]) -> np.ndarray:
    return np.asarray(rankdata(np.nan_to_num(values, nan=np.inf)))
