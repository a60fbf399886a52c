"""Types of an evaluation: an exam's ground truth, and a method's prediction for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict

from longilesion.case import LesionMap
from longilesion.geometry import Triple

Fate: TypeAlias = Literal["persists", "new", "gone", "merged"]

Matching: TypeAlias = Literal["id", "overlap"]
Instances: TypeAlias = Literal["labels", "components"]

FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionFact:
    """Facts of a lesion besides the maps.

    `true_id` is its id in the true follow-up maps: its own, or that of the lesion it merged into; None where it is
    gone. `fate` is None where it is unknown whether the lesion was in the baseline. `is_target` is whether it is
    measured for the response to therapy, None where it is not stated.
    """

    fate: Fate | None
    true_id: int | None
    lesion_type: str | None = None
    is_target: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineLesion:
    """Measures of a lesion outlined in the baseline scan; the short axis is perpendicular to the axial diameter."""

    volume_ml: float
    diameter_mm: float
    short_mm: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowupClick:
    """A given click in a follow-up scan."""

    scan: str
    point_xyz_mm: Triple


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exam:
    """One patient's follow-up: its true maps by scan, and by lesion id the facts, baselines and clicks.

    `baseline` is None where there are no baseline maps.
    """

    name: str
    truth: Mapping[str, LesionMap]
    facts: Mapping[int, LesionFact]
    baseline: Mapping[int, BaselineLesion] | None
    clicks: Mapping[int, FollowupClick]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """A method's prediction for an exam: its maps by scan (a missing one counts as empty), and values per lesion.

    `presence` is the probability that a lesion is present, `merged_into` the lesion that another has merged into; both
    are empty where the method does not report them.
    """

    maps: Mapping[str, LesionMap]
    presence: Mapping[int, float]
    merged_into: Mapping[int, int]


class ScoringSettings(BaseModel):
    """Settings of the scoring.

    `tolerance_mm` is for the surface Dice, `detection_iou` the overlap from which a lesion counts as detected. With
    `matching` by overlap, predicted labels first take the id of the true lesion that they match best. With `instances`
    as components, detection counts connected components (18 neighbours) and not labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance_mm: float = 2.0
    detection_iou: float = 0.1
    matching: Matching = "id"
    instances: Instances = "labels"
