"""The fate of each lesion, in the truth and in the prediction: it persists, is new, is gone, or has merged."""

from __future__ import annotations

from collections.abc import Mapping

from longilesion.evaluation.exam import Exam, Fate, Prediction
from longilesion.evaluation.overlap import Overlap


def predicted_fates(exam: Exam, prediction: Prediction, overlaps: Mapping[str, Overlap]) -> dict[int, Fate | None]:
    """The fate of each lesion by the predicted maps; None where there are no baseline maps.

    A lesion without voxels has merged where the method reports that; where the method reports no merging, if its click
    lies in another lesion's outline.
    """
    outlined = {label for overlap in overlaps.values() for label in overlap.predicted}
    hosts = {
        lesion_id: _predicted_host(exam, prediction, lesion_id, outlined)
        for lesion_id in exam.facts
        if lesion_id not in outlined
    }
    lesions = outlined & exam.facts.keys()
    merged: set[int | None] = {member for pair in hosts.items() if pair[1] in lesions for member in pair}
    return {lesion_id: _predicted_fate(exam, lesion_id, merged, outlined) for lesion_id in exam.facts}


def _predicted_fate(exam: Exam, lesion_id: int, merged: set[int | None], outlined: set[int]) -> Fate | None:
    if lesion_id in merged:
        return "merged"
    if lesion_id not in outlined:
        return "gone"
    fate = exam.facts[lesion_id].fate
    if fate is None:
        return None
    return "new" if _was_new(exam, lesion_id, fate) else "persists"


def _was_new(exam: Exam, lesion_id: int, fate: Fate) -> bool:
    return fate == "new" if exam.baseline is None else lesion_id not in exam.baseline


def _predicted_host(exam: Exam, prediction: Prediction, lesion_id: int, outlined: set[int]) -> int | None:
    """The label that a lesion without voxels has merged into."""
    if lesion_id in prediction.presence or lesion_id in prediction.merged_into:
        host = prediction.merged_into.get(lesion_id)
        seen = {lesion_id}
        # The host of one lesion may itself have merged into another.
        while host is not None and host not in outlined and host not in seen:
            seen.add(host)
            host = prediction.merged_into.get(host)
        return host
    click = exam.clicks.get(lesion_id)
    lesions = None if click is None else prediction.maps.get(click.scan)
    if click is None or lesions is None:
        return None
    index = lesions.grid.index_zyx(click.point_xyz_mm)
    if not lesions.grid.contains(index):
        return None
    z, y, x = (round(axis) for axis in lesions.grid.clamped(index))
    return int(lesions.ids[z, y, x]) or None
