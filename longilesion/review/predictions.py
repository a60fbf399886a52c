"""Predictions of lesions at the clicks that a person has set: a quick preview first, then as `segment` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from longilesion.bundle import Member
from longilesion.case import Case, Click, ClickPair, LesionPrompt, OutsideLesion
from longilesion.ensemble import Ensemble
from longilesion.errors import InputError
from longilesion.new_lesions import Search
from longilesion.pipeline import (
    PredictedLesion,
    Segmentation,
    label_predictions,
    predict_prompts,
    register_pair,
    with_new_lesions,
)
from longilesion.prompts import Prompts, complete_prompts
from longilesion.timing import Stopwatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstSegmentation:
    """What `segment` gives, and the prompts and predictions that it was made of."""

    segmentation: Segmentation
    predicted: Mapping[int, PredictedLesion]
    outside: Mapping[int, OutsideLesion]
    prompts: Prompts


def segment_first(
    case: Case, ensemble: Ensemble, search: Search | None = None, *, prompts: Prompts | None = None
) -> FirstSegmentation:
    """Segments a case by the steps of `segment_case`, and keeps the predictions; prompts may be known already."""
    watch = Stopwatch("propagate", "sample", "network", "label")
    with watch("propagate"):
        register = cache(register_pair)
        completed = prompts or complete_prompts(case, register=register)
    predicted = predict_prompts(case, completed.lesions, ensemble, watch)
    segmentation = label_predictions(case, predicted, completed.outside, ensemble, watch)
    if search is not None:
        segmentation = with_new_lesions(case, segmentation, search, watch, register=register)
    return FirstSegmentation(
        segmentation=segmentation,
        predicted={each.prompt.lesion_id: each for each in predicted},
        outside={lesion.lesion_id: lesion for lesion in completed.outside},
        prompts=completed,
    )


def with_clicks(case: Case, clicks: Mapping[int, Click]) -> Case:
    """A case in which these lesions have these follow-up clicks, new ones among them."""
    pairs = {pair.lesion_id: pair for pair in case.clicks}
    for lesion_id, click in clicks.items():
        pair = pairs.get(lesion_id, ClickPair(lesion_id=lesion_id, baseline=None, followup=None))
        pairs[lesion_id] = replace(pair, followup=click)
    return replace(case, clicks=tuple(pairs[lesion_id] for lesion_id in sorted(pairs)))


def prompt_at(case: Case, first: FirstSegmentation, lesion_id: int, click: Click) -> LesionPrompt:
    """The prompt that `segment` would make of a click; no other lesion changes with it.

    All other lesions get the clicks that they were found at, so that nothing is registered.
    """
    grid = case.followups[click.scan_name].grid
    if not grid.contains(grid.index_zyx(click.point_xyz_mm)):
        raise InputError(f"lesion {lesion_id}: a click outside the {click.scan_name} scan; expected one inside")
    known = {number: each.prompt.followup for number, each in first.predicted.items()}
    # A position outside the scans is computed, and that of no other lesion depends on it.
    known |= {number: click for number in first.outside}
    prompts = complete_prompts(with_clicks(case, {**known, lesion_id: click})).lesions
    return next(prompt for prompt in prompts if prompt.lesion_id == lesion_id)


def predict_at(case: Case, prompt: LesionPrompt, ensemble: Ensemble) -> PredictedLesion:
    """One lesion's prediction."""
    (predicted,) = predict_prompts(case, [prompt], ensemble, Stopwatch())
    return predicted


def preview_of(ensemble: Ensemble) -> Ensemble:
    """The heaviest network of an ensemble in one view, a fraction of the time."""
    member = ensemble.groups[0][0]
    one = Member(settings=member.settings.with_views(()), networks=member.networks[:1], weight=member.weight)
    return replace(ensemble, members=(one,))
