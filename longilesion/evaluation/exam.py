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
    """What is known of a lesion besides the maps.

    `true_id` is its id in the true follow-up maps: its own, or that of the lesion it merged into; None where it is
    gone. `fate` is None where nothing tells what was there before. `is_target` says whether it is measured for the
    response to therapy, None where it is not stated.
    """

    fate: Fate | None
    true_id: int | None
    lesion_type: str | None = None
    is_target: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineLesion:
    """A lesion outlined before therapy, measured."""

    volume_ml: float
    diameter_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowupClick:
    """A click that was given for the follow-up."""

    scan: str
    point_xyz_mm: Triple


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exam:
    """One patient's follow-up: its true maps by scan, and by lesion id the facts, baselines and clicks.

    `baseline` is None where nothing is known of the time before.
    """

    name: str
    truth: Mapping[str, LesionMap]
    facts: Mapping[int, LesionFact]
    baseline: Mapping[int, BaselineLesion] | None
    clicks: Mapping[int, FollowupClick]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What a method says of an exam: its maps by scan (one that is missing counts as empty), and of single lesions.

    `presence` is the probability that a lesion is there, `merged_into` names the lesion that has taken in another; both
    are empty where the method does not say.
    """

    maps: Mapping[str, LesionMap]
    presence: Mapping[int, float]
    merged_into: Mapping[int, int]


class ScoringSettings(BaseModel):
    """How an exam is scored.

    `tolerance_mm` is that of the surface Dice, `detection_iou` the overlap from which a lesion is detected. With
    `matching` by overlap, predicted labels first take the id of the true lesion that they match best. With `instances`
    as components, detection counts connected components (18 neighbours) and not labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance_mm: float = 2.0
    detection_iou: float = 0.1
    matching: Matching = "id"
    instances: Instances = "labels"
