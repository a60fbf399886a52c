"""Types between reading a data set and writing its cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from longilesion.case import Case, LesionMap, LesionRegion, Scan, ScanName
from longilesion.evaluation.exam import Fate, LesionFact
from longilesion.geometry import Triple
from training.preparation.record import ImageRecord, LesionRecord, Record

TimePoint: TypeAlias = Literal["baseline", "followup"]

TIME_POINTS: tuple[TimePoint, ...] = ("baseline", "followup")
TIME_NAMES: Mapping[TimePoint, str] = {"baseline": "baseline", "followup": "follow-up"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """A scan's file and that of its lesion map."""

    image: Path
    mask: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatientFiles:
    """The images of a patient by time point and number; `case_id` names the case of the first two images.

    `left_out` are images that cannot be used.
    """

    patient: str
    case_id: str
    images: Mapping[TimePoint, Mapping[int, ImageFiles]]
    left_out: tuple[ImageRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutlinedImage:
    """A scan and the file it was read from, its lesion map, and where each lesion lies in that."""

    file: Path
    scan: Scan
    lesions: LesionMap
    regions: Mapping[int, LesionRegion]


Outlines: TypeAlias = Mapping[TimePoint, Mapping[int, OutlinedImage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionRow:
    """What a table says of a lesion.

    `baseline_image` and `followup_image` number the images that show it, or its place where it is not there; None
    where the table does not say. Points are fractional voxel indices in these images.
    """

    lesion_id: int
    fate: Fate
    merged_into: int | None = None
    lesion_type: str | None = None
    is_target: bool | None = None
    baseline_image: int | None = None
    followup_image: int | None = None
    baseline_xyz: Triple | None = None
    followup_xyz: Triple | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionTable:
    """The lesions of a table that can be used, and those that the table itself rules out."""

    rows: tuple[LesionRow, ...]
    left_out: tuple[LesionRecord, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseContent:
    """A case as it is to be written, with its truth.

    `headers` names, by slug, the file whose header an image takes over; without it, the header follows from the grid.
    """

    case_id: str
    patient: str
    case: Case
    truth: Mapping[ScanName, LesionMap]
    facts: Mapping[int, LesionFact]
    headers: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """Result of a job: cases to write, and the record to keep."""

    cases: tuple[CaseContent, ...]
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """Making the cases of a patient, or a synthetic one; `memory_bytes` is about what it takes."""

    name: str
    patient: str
    memory_bytes: int
    make: Callable[[], Made]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSource:
    """A data set that was found: its jobs, the splits it came with, and what decided them.

    `left_out` are patients of which it is clear beforehand that they cannot be used.
    """

    kind: str
    place: str
    jobs: tuple[Job, ...]
    arguments: Mapping[str, Any]
    released: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: tuple[Record, ...] = ()
    warnings: tuple[str, ...] = ()
