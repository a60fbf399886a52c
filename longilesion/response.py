"""Response to therapy by RECIST 1.1, from measured lesions of two or more visits; beside it, by volume.

Sections are those of Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline
(version 1.1), Eur J Cancer 45 (2009) 228-247. What a reader has to judge is not decided here: whether the growth of
non-target lesions is unequivocal (4.3.4) and whether a new lesion is (4.3.5) is said by who calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from math import hypot, log
from typing import Literal, TypeAlias

TargetResponse: TypeAlias = Literal["CR", "PR", "SD", "PD", "NE"]
NonTargetResponse: TypeAlias = Literal["CR", "non-CR/non-PD", "PD", "NE"]
Response: TypeAlias = Literal["CR", "PR", "SD", "PD", "NE", "non-CR/non-PD"]

# 3.1.1: the longest diameter of a measurable lesion; with thick slices, twice their thickness.
MEASURABLE_MM = 10.0
# 3.1.1: the short axis of a lymph node that is measurable, and of one that is pathological at all.
MEASURABLE_NODE_MM, PATHOLOGICAL_NODE_MM = 15.0, 10.0
# 4.2: targets of a patient, and of an organ.
TARGETS, TARGETS_OF_ORGAN = 5, 2
# 4.3.1: change of the sum for a partial response, from the baseline, and for progression, from the smallest sum.
PARTIAL_RESPONSE, PROGRESSION, PROGRESSION_MM = -0.3, 0.2, 5.0
# 4.3.2: the diameter of a target that is there, but too small to be measured.
TOO_SMALL_MM = 5.0
# 4.6: the least time to the confirmation of a response.
CONFIRMED_DAYS = 28
# The same shares of a sphere's diameter, as shares of its volume.
PARTIAL_RESPONSE_VOLUME, PROGRESSION_VOLUME = (1 + PARTIAL_RESPONSE) ** 3 - 1, (1 + PROGRESSION) ** 3 - 1
# Tolerance for rounding in sums of diameters, as the limits are inclusive.
ROUNDING_MM = 1e-6

# 4.4.1, table 1, from the best to the worst.
_RANKS: Mapping[Response, int] = {"CR": 0, "PR": 1, "SD": 2, "PD": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """A lesion, by its id in all visits; `organ` is None where it is unknown, `is_target` where nobody has said."""

    lesion_id: int
    organ: str | None = None
    is_node: bool = False
    is_target: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A lesion at a visit: axial diameters and volume, 0 where it is gone, and their 95 % intervals.

    The short axis is perpendicular to the longest diameter, in the same slice. `error_mm` is half of the diameters'
    interval; the volume's runs from volume / `volume_factor` to volume * `volume_factor`.
    """

    longest_mm: float = 0.0
    short_mm: float = 0.0
    volume_ml: float = 0.0
    error_mm: float = 0.0
    volume_factor: float = 1.0

    @property
    def is_there(self) -> bool:
        """Whether anything of it is left."""
        return self.longest_mm > 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Visit:
    """The lesions of a visit by id; those that were in the baseline and are not here are gone.

    `part_of` are lesions that have merged into others, which have the measures of both. `not_assessed` are known, but
    lie outside the scan or could not be measured. `progressing` are non-targets whose growth somebody calls
    unequivocal.
    """

    measured: Mapping[int, Measured]
    on: date | None = None
    part_of: Mapping[int, int] = field(default_factory=dict)
    not_assessed: Collection[int] = ()
    progressing: Collection[int] = ()

    def of(self, lesion_id: int) -> Measured:
        """A lesion's measures, or those of a lesion that is gone."""
        return self.measured.get(lesion_id, Measured())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """The sum of the targets' diameters, half of its 95 % interval, and the sum of their volumes.

    `is_complete` is false where a target was not assessed; the sums are then those of the others.
    """

    mm: float
    error_mm: float
    ml: float
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The response at one visit after the baseline.

    `change` is that of the sum from the baseline, `change_from_smallest` that from the smallest sum before, None where
    they are 0. `could_be` are the other responses of the targets within the error of measurement. `is_confirmed` tells
    of CR and PR whether a later visit confirms them, None where dates are missing or for other responses.
    """

    on: date | None
    sum: Sum
    change: float | None
    change_from_smallest: float | None
    targets: TargetResponse | None
    could_be: tuple[TargetResponse, ...]
    non_targets: NonTargetResponse | None
    new: tuple[int, ...]
    overall: Response
    by_volume: TargetResponse | None
    is_confirmed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Targets and non-targets of a patient, the baseline's sum, the response at each later visit, and the best one.

    `best` needs no confirmation, `best_confirmed` does (4.4.3, table 3); it is None where dates are missing.
    """

    targets: tuple[int, ...]
    non_targets: tuple[int, ...]
    baseline: Sum
    assessments: tuple[Assessment, ...]
    best: Response | None
    best_confirmed: Response | None


def is_measurable(lesion: Lesion, measured: Measured, *, slice_mm: float = 0.0) -> bool:
    """Whether a lesion can be a target (3.1.1), in slices of that thickness."""
    if lesion.is_node:
        return measured.short_mm >= MEASURABLE_NODE_MM - ROUNDING_MM
    least_mm = max(MEASURABLE_MM, 2 * slice_mm if slice_mm > MEASURABLE_MM / 2 else 0.0)
    return measured.longest_mm >= least_mm - ROUNDING_MM


def is_pathological(lesion: Lesion, measured: Measured) -> bool:
    """Whether it is a lesion at all: a lymph node with a short axis below 10 mm is none (3.1.1)."""
    return measured.is_there and not (lesion.is_node and measured.short_mm < PATHOLOGICAL_NODE_MM - ROUNDING_MM)


def diameter_mm(lesion: Lesion, measured: Measured) -> float:
    """What a target adds to the sum (4.3.1, 4.3.2): a node's short axis, else the longest diameter, at least 5 mm."""
    if lesion.is_node:
        return measured.short_mm
    return max(measured.longest_mm, TOO_SMALL_MM) if measured.is_there else 0.0


def select_targets(lesions: Sequence[Lesion], baseline: Visit, *, slice_mm: float = 0.0) -> tuple[int, ...]:
    """The targets (4.2): those marked as such, or else the largest measurable ones, five at most and two of an organ.

    All lymph nodes are one organ. Lesions whose organ is unknown count as of organs of their own, so that none is left
    out for what nobody knows.
    """
    marked = [each.lesion_id for each in lesions if each.is_target and baseline.of(each.lesion_id).is_there]
    if marked:
        return tuple(sorted(marked))
    measurable = [
        each
        for each in lesions
        if each.is_target is None and is_measurable(each, baseline.of(each.lesion_id), slice_mm=slice_mm)
    ]
    largest_first = sorted(measurable, key=lambda each: (-baseline.of(each.lesion_id).longest_mm, each.lesion_id))
    chosen: list[int] = []
    of_organ: Counter[str] = Counter()
    for each in largest_first:
        organ = "lymph nodes" if each.is_node else each.organ
        if len(chosen) < TARGETS and (organ is None or of_organ[organ] < TARGETS_OF_ORGAN):
            chosen.append(each.lesion_id)
            of_organ.update([] if organ is None else [organ])
    return tuple(sorted(chosen))


def assess(lesions: Sequence[Lesion], visits: Sequence[Visit], *, slice_mm: float = 0.0) -> Course:
    """The response at every visit after the first, which is the baseline.

    `lesions` are those of all visits. A lesion that the baseline does not have, and that is there later, is new from
    then on, also where the baseline's scan did not reach it (4.3.5). After a complete response, any lesion is
    progression (4.4.3, table 3). Raises ValueError without a visit, and for dates that run backwards.
    """
    if not visits:
        raise ValueError("no visit; expected a baseline at least")
    dates = [visit.on for visit in visits if visit.on is not None]
    if dates != sorted(dates):
        raise ValueError("the visits' dates run backwards; expected them in order of time")
    baseline, *later = visits
    by_id = {each.lesion_id: each for each in lesions}
    targets = select_targets(lesions, baseline, slice_mm=slice_mm)
    non_targets = tuple(
        sorted(
            each.lesion_id
            for each in lesions
            if each.lesion_id not in targets and is_pathological(each, baseline.of(each.lesion_id))
        )
    )
    at_baseline = _sum(targets, by_id, baseline)
    smallest = at_baseline
    new: tuple[int, ...] = ()
    assessments: list[Assessment] = []
    for visit in later:
        now = _sum(targets, by_id, visit)
        new = tuple(sorted({*new, *_appeared(by_id, baseline, visit)}))
        found = _assessment(targets, non_targets, by_id, visit, now, at_baseline, smallest, new)
        was_complete = any(each.overall == "CR" for each in assessments)
        if was_complete and any(is_pathological(by_id[each], visit.of(each)) for each in (*targets, *non_targets)):
            found = replace(found, overall="PD")
        assessments.append(found)
        if now.is_complete and now.mm < smallest.mm:
            smallest = now
    assessments = [_with_confirmation(each, assessments[place + 1 :]) for place, each in enumerate(assessments)]
    return Course(
        targets=targets,
        non_targets=non_targets,
        baseline=at_baseline,
        assessments=tuple(assessments),
        best=_best(each.overall for each in _until_progression(assessments)),
        best_confirmed=_best_confirmed(assessments),
    )


def target_response(now: Sum, baseline: Sum, smallest: Sum, *, all_gone: bool) -> TargetResponse:
    """4.3.1; where a target was not assessed, only progression of the others can be said (4.4.2)."""
    growth_mm = now.mm - smallest.mm
    if growth_mm >= max(PROGRESSION * smallest.mm, PROGRESSION_MM) - ROUNDING_MM:
        return "PD"
    if not now.is_complete:
        return "NE"
    if all_gone:
        return "CR"
    return "PR" if now.mm - baseline.mm <= PARTIAL_RESPONSE * baseline.mm + ROUNDING_MM else "SD"


def overall_response(
    targets: TargetResponse | None, non_targets: NonTargetResponse | None, *, is_new: bool
) -> Response:
    """The response at a visit (4.4.1, tables 1 and 2); None for targets or non-targets that a patient does not have."""
    if is_new or targets == "PD" or non_targets == "PD":
        return "PD"
    if targets is None:
        return non_targets or "NE"
    if targets == "CR":
        return "CR" if non_targets in (None, "CR") else "PR"
    return targets


def doubling_time_days(before: Measured, after: Measured, days: float) -> float | None:
    """The time in which a lesion's volume doubles (Schwartz 1961); negative where it shrinks: it halves in that time.

    None where the lesion is not there at both times, where its volume does not change, or without time between.
    """
    if before.volume_ml <= 0 or after.volume_ml <= 0 or days <= 0 or after.volume_ml == before.volume_ml:
        return None
    return days * log(2) / log(after.volume_ml / before.volume_ml)


def _sum(targets: Sequence[int], by_id: Mapping[int, Lesion], visit: Visit) -> Sum:
    """Targets that have merged count once (4.3.2)."""
    assessed = [each for each in targets if each not in visit.not_assessed]
    outlines = dict.fromkeys(visit.part_of.get(each, each) for each in assessed)
    found = [(by_id[each], visit.of(each)) for each in outlines]
    return Sum(
        mm=sum(diameter_mm(lesion, measured) for lesion, measured in found),
        error_mm=hypot(*(measured.error_mm for _, measured in found)),
        ml=sum(measured.volume_ml for _, measured in found),
        is_complete=len(assessed) == len(targets),
    )


def _assessment(
    targets: Sequence[int],
    non_targets: Sequence[int],
    by_id: Mapping[int, Lesion],
    visit: Visit,
    now: Sum,
    baseline: Sum,
    smallest: Sum,
    new: tuple[int, ...],
) -> Assessment:
    outlines = [visit.part_of.get(each, each) for each in targets]
    all_gone = not any(is_pathological(by_id[each], visit.of(each)) for each in outlines)
    of_targets = target_response(now, baseline, smallest, all_gone=all_gone) if targets else None
    of_others = _non_target_response(non_targets, by_id, visit)
    return Assessment(
        on=visit.on,
        sum=now,
        change=_change(now.mm, baseline.mm),
        change_from_smallest=_change(now.mm, smallest.mm),
        targets=of_targets,
        could_be=() if of_targets is None else _could_be(of_targets, now, baseline, smallest),
        non_targets=of_others,
        new=new,
        overall=overall_response(of_targets, of_others, is_new=bool(new)),
        by_volume=_by_volume(now, baseline, smallest) if targets else None,
    )


def _non_target_response(
    non_targets: Sequence[int], by_id: Mapping[int, Lesion], visit: Visit
) -> NonTargetResponse | None:
    """4.3.3."""
    if not non_targets:
        return None
    if any(each in visit.progressing for each in non_targets):
        return "PD"
    assessed = [each for each in non_targets if each not in visit.not_assessed]
    outlines = {visit.part_of.get(each, each) for each in assessed}
    if any(is_pathological(by_id[each], visit.of(each)) for each in outlines):
        return "non-CR/non-PD"
    return "CR" if len(assessed) == len(non_targets) else "NE"


def _appeared(by_id: Mapping[int, Lesion], baseline: Visit, visit: Visit) -> Iterator[int]:
    known = {each for each in by_id if each in baseline.not_assessed or baseline.of(each).is_there}
    # What known lesions have merged into is not new, whatever its id.
    known |= {visit.part_of[each] for each in known if each in visit.part_of}
    yield from (
        each
        for each, measured in visit.measured.items()
        if each not in known and is_pathological(by_id[each], measured)
    )


def _could_be(response: TargetResponse, now: Sum, baseline: Sum, smallest: Sum) -> tuple[TargetResponse, ...]:
    """The responses on the other side of a limit that lies within the error of both sums."""
    if response in ("NE", "CR"):
        return ()
    growth_mm = now.mm - smallest.mm
    share = growth_mm - PROGRESSION * smallest.mm, hypot(now.error_mm, (1 + PROGRESSION) * smallest.error_mm)
    absolute = growth_mm - PROGRESSION_MM, hypot(now.error_mm, smallest.error_mm)
    margin_mm, error_mm = min(share, absolute)
    shrinkage_mm = now.mm - (1 + PARTIAL_RESPONSE) * baseline.mm
    near_progression = abs(margin_mm) < error_mm
    near_response = abs(shrinkage_mm) < hypot(now.error_mm, (1 + PARTIAL_RESPONSE) * baseline.error_mm)
    unless_progressing: TargetResponse = "PR" if shrinkage_mm <= ROUNDING_MM else "SD"
    others: set[TargetResponse] = set()
    if near_progression:
        others |= {"PD", unless_progressing}
    if near_response and (response != "PD" or near_progression):
        others |= {"PR", "SD"}
    return tuple(each for each in ("PR", "SD", "PD") if each in others - {response})


def _by_volume(now: Sum, baseline: Sum, smallest: Sum) -> TargetResponse | None:
    """By the targets' volumes, with the limits of a sphere whose diameter is at RECIST's; None where they are 0."""
    if not baseline.ml:
        return None
    if now.ml - smallest.ml >= PROGRESSION_VOLUME * smallest.ml and now.ml > smallest.ml:
        return "PD"
    if not now.is_complete:
        return "NE"
    if now.ml == 0:
        return "CR"
    return "PR" if now.ml - baseline.ml <= PARTIAL_RESPONSE_VOLUME * baseline.ml else "SD"


def _change(now: float, before: float) -> float | None:
    return (now - before) / before if before else None


def _with_confirmation(assessment: Assessment, later: Sequence[Assessment]) -> Assessment:
    """Whether a visit four weeks later or more shows the response, or a better one, before any progression (4.6)."""
    if assessment.overall not in ("CR", "PR"):
        return assessment
    following = list(_until_progression(later))
    if assessment.on is None or any(each.on is None for each in following):
        return assessment
    confirmed = any(
        each.overall in _RANKS
        and _RANKS[each.overall] <= _RANKS[assessment.overall]
        and each.on is not None
        and (each.on - assessment.on).days >= CONFIRMED_DAYS
        for each in following
    )
    return replace(assessment, is_confirmed=confirmed)


def _until_progression(assessments: Sequence[Assessment]) -> Iterator[Assessment]:
    """Up to the first progression, with it (4.4.3)."""
    for each in assessments:
        yield each
        if each.overall == "PD":
            return


def _best(responses: Iterator[Response]) -> Response | None:
    found = list(responses)
    ranked = [each for each in found if each in _RANKS]
    if ranked:
        return min(ranked, key=lambda each: _RANKS[each])
    return found[0] if found else None


def _best_confirmed(assessments: Sequence[Assessment]) -> Response | None:
    """Table 3: a response that no later visit confirms is stable disease."""
    if not assessments or any(each.on is None for each in assessments):
        return None
    return _best(
        "SD" if each.overall in ("CR", "PR") and not each.is_confirmed else each.overall
        for each in _until_progression(assessments)
    )
