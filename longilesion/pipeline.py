"""The segmentation pipeline: from a case and an ensemble to one label map per follow-up scan. No input or output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from longilesion.case import (
    LOW_CONFIDENCE,
    SCAN_NAMES,
    Absence,
    Case,
    LesionMap,
    LesionPrediction,
    LesionPrompt,
    OutsideLesion,
    Scan,
    ScanName,
)
from longilesion.config import MeasurementErrors
from longilesion.diagnosis_settings import LesionType
from longilesion.ensemble import Ensemble
from longilesion.geometry import Triple
from longilesion.labelling import LabelledScan, Labels, label_lesions
from longilesion.prediction import one_matrix_thread, place_lesions, predict_lesions
from longilesion.prompts import complete_prompts
from longilesion.timing import Stopwatch
from longilesion.uncertainty import Band, Uncertainty, uncertainty_of
from longilesion.voi import Placement

if TYPE_CHECKING:
    from longilesion.diagnosis.bundle import DiagnosisModel
    from longilesion.new_lesions import NewLesion, Search
    from longilesion.registration.result import Registration

# Beginning of the note of a lesion without a follow-up click.
_PROPAGATED = "no follow-up click, propagated from the baseline"
# Below this similarity, the surroundings at a given click do not match the baseline's.
UNLIKE = 0.4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionOutcome:
    """The outcome of one lesion: presence and probability 0..1, volumes, and a note, which every empty lesion has.

    `place_xyz_mm` is the position found by alignment, starting from the prompt's click, `similarity` the correlation of
    its surroundings there with those in the baseline, None where there is nothing to compare; `is_unlike` is true where
    it is too low for a given click. Position and `presence` are None for a lesion outside all follow-up scans.
    `is_present` is true where the presence reaches the threshold, even if the outline is empty. `merged_into` is the
    lesion with which this one shares its outline. `band` is that of its outline, `uncertainty` what it means for this
    model; both are None where there is no outline, the latter also where the model's errors are not known.
    """

    prompt: LesionPrompt | OutsideLesion
    place_xyz_mm: Triple | None
    presence: float | None
    probability: float
    volume_baseline_ml: float | None
    volume_followup_ml: float
    note: str
    merged_into: int | None = None
    similarity: float | None = None
    is_unlike: bool = False
    is_present: bool = False
    band: Band | None = None
    uncertainty: Uncertainty | None = None

    @property
    def absence(self) -> Absence | None:
        """Why the lesion has no outline of its own; None where it has one."""
        if self.volume_followup_ml > 0:
            return None
        if isinstance(self.prompt, OutsideLesion):
            return "outside"
        if self.merged_into is not None:
            return "merged"
        return "not outlined" if self.is_present else "gone"

    @property
    def is_unsure(self) -> bool:
        """Whether the lesion may have been segmented, or missed, at a wrong position."""
        return self.is_unlike or self.prompt.confidence < LOW_CONFIDENCE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedLesion:
    """A lesion to segment and its prediction, and what its surroundings are like (as in `LesionOutcome`)."""

    prompt: LesionPrompt
    prediction: LesionPrediction
    similarity: float | None
    is_unlike: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segmentation:
    """The label map of every follow-up scan, the outcomes of all lesions sorted by id, and the seconds of each stage.

    `left_out` are the ids of clicked lesions without a position in any follow-up scan. `candidates` are the lesions
    that a search has found and no known lesion explains, in the maps as well. `types` are the probabilities of the
    types of lesions in the liver, by id, None where they were not asked for. `labels` is what the maps' voxels hold.
    """

    maps: Mapping[ScanName, LesionMap]
    lesions: tuple[LesionOutcome, ...]
    left_out: tuple[int, ...]
    seconds: Mapping[str, float]
    candidates: tuple[NewLesion, ...] = ()
    types: Mapping[int, Mapping[LesionType, float]] | None = None
    labels: Labels = "lesion_ids"


def segment_case(
    case: Case,
    ensemble: Ensemble,
    *,
    labels: Labels = "lesion_ids",
    refine_clicks: bool = False,
    search: Search | None = None,
) -> Segmentation:
    """Outlines every lesion of a case in its follow-up scans; a note explains each empty outline.

    With `refine_clicks`, given follow-up clicks are corrected where registration contradicts them with high confidence.
    With `search`, the scans are searched for lesions that nobody clicked.
    Where members of the ensemble differ in their lattices, positions and similarities are those of the heaviest group.
    """
    watch = Stopwatch("propagate", "sample", "network", "label")
    with watch("propagate"):
        # A scan is compared by identity, so each pair is registered once.
        register = cache(register_pair)
        completed = complete_prompts(case, refine_clicks=refine_clicks, register=register)
    prompts = completed.lesions
    _log.info(
        "%d lesions to look for, %d with a propagated click (%d of low confidence); %d outside the field of view",
        len(prompts),
        sum(prompt.propagated for prompt in prompts),
        sum(prompt.confidence < LOW_CONFIDENCE for prompt in prompts),
        len(completed.outside),
    )
    predicted = predict_prompts(case, prompts, ensemble, watch)
    segmentation = label_predictions(case, predicted, completed.outside, ensemble, watch, labels=labels)
    return segmentation if search is None else with_new_lesions(case, segmentation, search, watch, register=register)


def predict_prompts(
    case: Case, prompts: Sequence[LesionPrompt], ensemble: Ensemble, watch: Stopwatch
) -> list[PredictedLesion]:
    """Places and predicts lesions; logs those at whose given click nothing looks like the baseline."""
    by_group = place_lesions(case, prompts, ensemble, watch)
    placements = [own[0] for own in by_group]
    unlike = _unlike(prompts, placements)
    predictions = predict_lesions(case, prompts, by_group, ensemble, watch)
    return [
        PredictedLesion(
            prompt=prompt,
            prediction=prediction,
            similarity=placement.similarity,
            is_unlike=prompt.lesion_id in unlike,
        )
        for prompt, placement, prediction in zip(prompts, placements, predictions, strict=True)
    ]


def label_predictions(
    case: Case,
    predicted: Sequence[PredictedLesion],
    outside: Sequence[OutsideLesion],
    ensemble: Ensemble,
    watch: Stopwatch,
    *,
    labels: Labels = "lesion_ids",
) -> Segmentation:
    """The maps of a case's follow-up scans, and the outcomes of all lesions, of which some lie outside the scans."""
    with watch("label"), one_matrix_thread():
        labelled = {
            name: label_lesions(
                [each.prediction for each in predicted if each.prompt.followup.scan_name == name],
                case.followups[name].grid,
                ensemble.thresholds,
                labels=labels,
            )
            for name in SCAN_NAMES
            if name in case.followups
        }
    looked_for = [
        replace(
            _outcome(case, each.prompt, each.prediction, labelled[each.prompt.followup.scan_name], ensemble.errors),
            similarity=each.similarity,
            is_unlike=each.is_unlike,
            is_present=not each.prediction.is_gone(ensemble.thresholds.presence_threshold),
        )
        for each in predicted
    ]
    outcomes = tuple(
        sorted(
            [*looked_for, *(_outcome_outside(case, lesion) for lesion in outside)],
            key=lambda outcome: outcome.prompt.lesion_id,
        )
    )
    found = sum(outcome.volume_followup_ml > 0 for outcome in outcomes)
    _log.info("%d lesions outlined, %d empty", found, len(outcomes) - found)
    placed = {outcome.prompt.lesion_id for outcome in outcomes}
    return Segmentation(
        maps={name: result.lesions for name, result in labelled.items()},
        lesions=outcomes,
        left_out=tuple(pair.lesion_id for pair in case.clicks if pair.lesion_id not in placed),
        seconds=watch.seconds,
        labels=labels,
    )


def with_new_lesions(
    case: Case,
    segmentation: Segmentation,
    search: Search,
    watch: Stopwatch,
    *,
    register: Callable[[Scan, Scan], Registration],
) -> Segmentation:
    """The segmentation with the lesions that a search has found and no known lesion explains."""
    # Imported late, as few runs search.
    from longilesion.new_lesions import find_new_lesions

    with watch("search"):
        maps, candidates = find_new_lesions(
            case,
            segmentation.maps,
            _places(segmentation.lesions),
            search,
            register=register,
            labels=segmentation.labels,
        )
    return replace(segmentation, maps=maps, candidates=candidates, seconds=watch.seconds)


def remarks(note: str) -> list[str]:
    """The parts of a note, but for the one on a propagated click, which click and confidence say as well."""
    return [part for part in note.split("; ") if part and not part.startswith(_PROPAGATED)]


def with_types(segmentation: Segmentation, livers: Mapping[ScanName, Scan], model: DiagnosisModel) -> Segmentation:
    """The segmentation with the types of the outlined lesions that lie in the liver.

    `livers` are the follow-up scans with the liver as their organ; each is taken for a venous phase. A lesion that is
    merged into another one has no outline of its own, and so no type.
    """
    # Imported late: few runs ask for types.
    from longilesion.diagnosis.lesion_types import lesion_types

    watch = Stopwatch()
    types: dict[int, Mapping[LesionType, float]] = {}
    with watch("types"):
        for name, scan in livers.items():
            types |= lesion_types(scan, segmentation.maps[name], model)
    _log.info("types of %d lesions in the liver", len(types))
    return replace(segmentation, types=types, seconds={**segmentation.seconds, **watch.seconds})


def register_pair(baseline: Scan, followup: Scan) -> Registration:
    """Registers two scans."""
    # Imported late: the libraries of registration take long to load, and a case with clicks needs none of them.
    from longilesion.registration.register import register_scans

    return register_scans(baseline, followup)


def _places(outcomes: Sequence[LesionOutcome]) -> dict[ScanName, list[Triple]]:
    """The clicks and aligned positions of the lesions in each follow-up scan."""
    places: dict[ScanName, list[Triple]] = {}
    for outcome in outcomes:
        if isinstance(outcome.prompt, LesionPrompt) and outcome.place_xyz_mm is not None:
            click = outcome.prompt.followup
            places.setdefault(click.scan_name, []).extend([click.point_xyz_mm, outcome.place_xyz_mm])
    return places


def _unlike(prompts: Sequence[LesionPrompt], placements: Sequence[Placement]) -> set[int]:
    """The lesions whose surroundings at the given follow-up click do not match those in the baseline."""
    given = {
        prompt.lesion_id: placement.similarity
        for prompt, placement in zip(prompts, placements, strict=True)
        if not prompt.propagated and placement.similarity is not None
    }
    unlike = {lesion_id: similarity for lesion_id, similarity in given.items() if similarity < UNLIKE}
    if unlike:
        _log.warning(
            "%d of %d given follow-up clicks lead to nothing like the lesion's surroundings in the baseline (%s), "
            "expected a similarity of %.1f; are they of this scan and these lesions?",
            len(unlike),
            len(given),
            ", ".join(f"lesion {lesion_id}: {similarity:.2f}" for lesion_id, similarity in unlike.items()),
            UNLIKE,
        )
    return set(unlike)


def _outcome(
    case: Case,
    prompt: LesionPrompt,
    prediction: LesionPrediction,
    labelled: LabelledScan,
    errors: MeasurementErrors | None,
) -> LesionOutcome:
    lesion_id = prompt.lesion_id
    band = labelled.bands.get(lesion_id)
    notes = [labelled.notes.get(lesion_id, "")]
    if prompt.followup.clamped:
        notes.append("click outside the scan, moved to its border")
    if prompt.propagated:
        notes.append(f"{_PROPAGATED} with confidence {prompt.confidence:.2f}")
    if prompt.refined:
        notes.append("follow-up click corrected by registration")
    if prompt.baseline_corrected:
        notes.append("baseline click outside the outline, whose centre is used")
    return LesionOutcome(
        prompt=prompt,
        place_xyz_mm=prediction.prompt.followup.point_xyz_mm,
        presence=prediction.presence,
        probability=labelled.probabilities.get(lesion_id, 0.0),
        volume_baseline_ml=baseline_volume_ml(case, prompt),
        volume_followup_ml=labelled.volumes_ml.get(lesion_id, 0.0),
        note="; ".join(note for note in notes if note),
        merged_into=labelled.merged_into.get(lesion_id),
        band=band,
        uncertainty=None if band is None or errors is None else uncertainty_of(band, errors),
    )


def _outcome_outside(case: Case, lesion: OutsideLesion) -> LesionOutcome:
    return LesionOutcome(
        prompt=lesion,
        place_xyz_mm=None,
        presence=None,
        probability=0.0,
        volume_baseline_ml=baseline_volume_ml(case, lesion),
        volume_followup_ml=0.0,
        note=f"outside the follow-up's field of view, with confidence {lesion.confidence:.2f}",
    )


def baseline_volume_ml(case: Case, prompt: LesionPrompt | OutsideLesion) -> float | None:
    """Volume of the outlined lesion: 0 where the baseline's map lacks it, None where there is no map."""
    if prompt.baseline is None:
        return 0.0 if any(prior.lesions is not None for prior in case.baselines.values()) else None
    prior = case.baselines.get(prompt.baseline.scan_name)
    if prior is None or prior.lesions is None:
        return None
    region = prior.regions.get(prompt.lesion_id)
    return 0.0 if region is None else region.voxels * prior.scan.grid.voxel_volume_ml
