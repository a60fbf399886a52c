"""The table of all lesions of a cohort: its columns, and a row for each lesion of a run report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from longilesion.report import CandidateReport, LesionReport, RunReport

Fate: TypeAlias = Literal["persists", "new", "gone", "merged", "outside", "not outlined", "candidate", "left out"]
Kind: TypeAlias = Literal["text", "category", "flag", "id", "number", "point"]

FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: what its values are, in which unit, and what they mean; a value that is not known is null."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    is_nullable: bool = True


COLUMNS = (
    Column(name="case", kind="text", meaning="name of the case", is_nullable=False),
    Column(name="lesion", kind="id", meaning="id of the lesion, as in the maps", is_nullable=False),
    Column(
        name="fate",
        kind="category",
        meaning="persists; new: without voxels in the baseline's map; gone; merged: in another one's outline; "
        "outside: of all follow-up scans; not outlined: there, but without a voxel; candidate: found by a search, by "
        "nobody confirmed; left out: its only click is in a scan that is missing",
        is_nullable=False,
    ),
    Column(name="scan", kind="category", meaning="follow-up scan that it lies in: primary or secondary"),
    Column(name="target", kind="flag", meaning="whether it is a target lesion by RECIST 1.1", is_nullable=False),
    Column(name="unsure", kind="flag", meaning="whether it may have been looked for at a wrong place"),
    Column(name="click", kind="point", unit="voxels", meaning="place in the follow-up scan, x y z, from 0"),
    Column(name="click_mm", kind="point", unit="mm", meaning="the same in the scan's frame, x y z, LPS"),
    Column(name="propagated", kind="flag", meaning="whether registration has found that place"),
    Column(name="refined", kind="flag", meaning="whether registration has corrected a given one"),
    Column(name="confidence", kind="number", meaning="probability that the place is right; of candidates, the score"),
    Column(name="similarity", kind="number", meaning="correlation of the surroundings in both scans"),
    Column(name="presence", kind="number", meaning="probability that the lesion is still there"),
    Column(name="probability", kind="number", meaning="mean probability inside the outline"),
    Column(name="volume_baseline", kind="number", unit="ml", meaning="volume in the baseline"),
    Column(name="volume_followup", kind="number", unit="ml", meaning="volume in the follow-up"),
    Column(name="volume_low", kind="number", unit="ml", meaning="lower end of its 95 % interval"),
    Column(name="volume_high", kind="number", unit="ml", meaning="upper end of its 95 % interval"),
    Column(name="diameter_baseline", kind="number", unit="mm", meaning="longest axial diameter in the baseline"),
    Column(name="diameter_followup", kind="number", unit="mm", meaning="longest axial diameter in the follow-up"),
    Column(name="short_axis_baseline", kind="number", unit="mm", meaning="diameter perpendicular to it, baseline"),
    Column(name="short_axis_followup", kind="number", unit="mm", meaning="diameter perpendicular to it, follow-up"),
    Column(name="diameter_error", kind="number", unit="mm", meaning="half of the follow-up diameter's 95 % interval"),
    Column(name="merged_into", kind="id", meaning="lesion whose outline includes this one"),
    Column(name="note", kind="text", meaning="reason for an empty outline, and other remarks"),
)


def fate_of(lesion: LesionReport) -> Fate:
    """What has become of a lesion, by the outlines."""
    if lesion.absence is not None:
        return lesion.absence
    # Without a baseline's map nobody knows whether it is new.
    return "new" if lesion.volume_baseline_ml == 0 else "persists"


def lesion_rows(case: str, report: RunReport) -> Iterator[dict[str, Any]]:
    """A row for each lesion of a case, by column; what is not known is missing."""
    targets = set() if report.response is None else set(report.response.targets)
    for lesion in report.lesions:
        yield {"case": case, "fate": fate_of(lesion), "target": lesion.id in targets, **_lesion(lesion)}
    for candidate in report.candidates:
        yield {"case": case, "fate": "candidate", "target": False, **_candidate(candidate)}
    for lesion_id in report.left_out:
        yield {"case": case, "fate": "left out", "lesion": lesion_id, "target": False}


def _lesion(lesion: LesionReport) -> dict[str, Any]:
    return {
        "lesion": lesion.id,
        "scan": lesion.scan,
        "unsure": lesion.unsure,
        "click": lesion.click,
        "click_mm": lesion.click_xyz_mm,
        "propagated": lesion.propagated,
        "refined": lesion.refined,
        "confidence": lesion.confidence,
        "similarity": lesion.similarity,
        "presence": lesion.presence,
        "probability": lesion.probability,
        "volume_baseline": lesion.volume_baseline_ml,
        "volume_followup": lesion.volume_followup_ml,
        "volume_low": lesion.volume_low_ml,
        "volume_high": lesion.volume_high_ml,
        "diameter_baseline": lesion.diameter_baseline_mm,
        "diameter_followup": lesion.diameter_followup_mm,
        "short_axis_baseline": lesion.short_axis_baseline_mm,
        "short_axis_followup": lesion.short_axis_followup_mm,
        "diameter_error": lesion.diameter_error_mm,
        "merged_into": lesion.merged_into,
        "note": lesion.note,
    }


def _candidate(candidate: CandidateReport) -> dict[str, Any]:
    return {
        "lesion": candidate.id,
        "scan": candidate.scan,
        "click": candidate.centre,
        "click_mm": candidate.centre_xyz_mm,
        "confidence": candidate.score,
        "volume_followup": candidate.volume_ml,
        "diameter_followup": candidate.diameter_mm,
    }
