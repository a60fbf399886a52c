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
    """A scan and its file, its lesion map, and the region of each lesion."""

    file: Path
    scan: Scan
    lesions: LesionMap
    regions: Mapping[int, LesionRegion]


Outlines: TypeAlias = Mapping[TimePoint, Mapping[int, OutlinedImage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionRow:
    """A lesion in a table.

    `baseline_image` and `followup_image` are the numbers of the images that show it, or its position if it is absent;
    None where the table lacks them. Points are fractional voxel indices in these images.
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
    """The usable lesions of a table, and those excluded by the table itself."""

    rows: tuple[LesionRow, ...]
    left_out: tuple[LesionRecord, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseContent:
    """A case to be written, with its ground truth.

    `headers` names, by slug, the file whose header is copied to an image; without it, the header is that of the grid.
    `organ` is the name of the scans' organ masks, where they have any.
    """

    case_id: str
    patient: str
    case: Case
    truth: Mapping[ScanName, LesionMap]
    facts: Mapping[int, LesionFact]
    headers: Mapping[str, Path] = field(default_factory=dict)
    organ: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """Result of a job: cases to write, and their record."""

    cases: tuple[CaseContent, ...]
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """Making the cases of a patient, or a synthetic one; `memory_bytes` is an estimate."""

    name: str
    patient: str
    memory_bytes: int
    make: Callable[[], Made]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSource:
    """A data set: its jobs, its released splits, and the arguments that determine them.

    `left_out` are patients that are known beforehand to be unusable. `licence` is that of what the cases
    contain besides the data.
    """

    kind: str
    place: str
    jobs: tuple[Job, ...]
    arguments: Mapping[str, Any]
    released: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: tuple[Record, ...] = ()
    warnings: tuple[str, ...] = ()
    licence: str | None = None
