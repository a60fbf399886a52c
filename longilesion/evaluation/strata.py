"""Scores by stratum: the lesion's size, fate, type, and the distance of its click."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from pydantic import BaseModel, ConfigDict

from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.lesions import LesionScore

DIAMETERS_MM = (0.0, 6.0, 10.0, 20.0, 40.0, np.inf)
CLICK_ERRORS_MM = (0.0, 2.0, 5.0, 15.0, np.inf)


class Stratum(BaseModel):
    """The scores of one stratum; for gone lesions, `recognised` is the share without a predicted outline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    name: str
    dice: Estimate
    surface_dice: Estimate
    detected: Estimate
    recognised: Estimate


def strata_of(lesions: Sequence[LesionScore]) -> Iterator[tuple[str, str, list[LesionScore]]]:
    """The variable, the stratum, and its lesions; empty strata are left out."""
    kinds: dict[str, dict[str, Callable[[LesionScore], bool]]] = {
        "diameter": _intervals(lambda lesion: lesion.diameter_mm, DIAMETERS_MM),
        "fate": _values(lesions, lambda lesion: lesion.fate),
        "type": _values(lesions, lambda lesion: lesion.lesion_type),
        "click error": _intervals(lambda lesion: lesion.click_error_mm, CLICK_ERRORS_MM),
    }
    for by, strata in kinds.items():
        for name, belongs in strata.items():
            chosen = [lesion for lesion in lesions if belongs(lesion)]
            if chosen:
                yield by, name, chosen


def score_strata(lesions: Sequence[LesionScore], exams: Sequence[str], bootstrap: Bootstrap) -> list[Stratum]:
    """Mean scores of every stratum; `exams` are the patients in the order in which `bootstrap` draws them."""
    place_of = {exam: place for place, exam in enumerate(exams)}

    def mean(chosen: Sequence[LesionScore], value: Callable[[LesionScore], float | None]) -> Estimate:
        known = [(place_of[lesion.exam], number) for lesion in chosen if (number := value(lesion)) is not None]
        patients, numbers = (np.array(side) for side in zip(*known, strict=True)) if known else (np.empty(0, int),) * 2
        return bootstrap.pooled_mean(numbers.astype(np.float64), patients)

    return [
        Stratum(
            by=by,
            name=name,
            dice=mean(chosen, lambda lesion: lesion.dice),
            surface_dice=mean(chosen, lambda lesion: lesion.surface_dice),
            detected=mean(chosen, lambda lesion: lesion.is_detected),
            recognised=mean(chosen, lambda lesion: lesion.is_recognised),
        )
        for by, name, chosen in strata_of(lesions)
    ]


def _intervals(
    value: Callable[[LesionScore], float | None], limits: Sequence[float]
) -> dict[str, Callable[[LesionScore], bool]]:
    def is_within(low: float, high: float, lesion: LesionScore) -> bool:
        number = value(lesion)
        return number is not None and low <= number < high

    return {
        f"{low:g}-{high:g} mm" if np.isfinite(high) else f"over {low:g} mm": partial(is_within, low, high)
        for low, high in pairwise(limits)
    }


def _values(
    lesions: Sequence[LesionScore], value: Callable[[LesionScore], str | None]
) -> dict[str, Callable[[LesionScore], bool]]:
    names = sorted({name for lesion in lesions if (name := value(lesion)) is not None})

    def is_one_of(name: str, lesion: LesionScore) -> bool:
        return value(lesion) == name

    return {name: partial(is_one_of, name) for name in names}
