"""From prompts to one prediction per lesion: placement, sampling, the members' probabilities, and their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from jaxtyping import Float32
from threadpoolctl import ThreadpoolController

from longilesion.alignment import place_vois
from longilesion.bundle import Member
from longilesion.case import Case, Click, LesionPrediction, LesionPrompt
from longilesion.config import ModelSettings, Thresholds
from longilesion.encoding import encode
from longilesion.ensemble import Ensemble
from longilesion.geometry import Grid, box_slices, voxel_index
from longilesion.timing import Stopwatch
from longilesion.uncertainty import DEVIATIONS
from longilesion.voi import Placement, VoiPair, occupied_box, paste_probability, sample_voi_pair

# Pasting samples no farther than this on a grid's own voxels.
_MARGIN_VOXELS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _GroupPrediction:
    """A group's mean on one lattice; `judging_weight` is the weight of the members that predict the presence."""

    lesion: LesionPrediction
    weight: float
    judging_weight: float


def place_lesions(
    case: Case, prompts: Sequence[LesionPrompt], ensemble: Ensemble, watch: Stopwatch
) -> list[tuple[Placement, ...]]:
    """The placements of every lesion's lattices, one per group of members."""
    with watch("sample"), lesion_threads() as pool:
        by_group = [
            pool.map(partial(place_vois, case, settings=_placing_settings(group)), prompts) for group in ensemble.groups
        ]
        return list(zip(*by_group, strict=True))


def _placing_settings(group: Sequence[Member]) -> ModelSettings:
    """Those of a member that sees the time points before the baseline, if there is one; the others ignore them."""
    return max((member.settings for member in group), key=lambda settings: settings.network.uses_earlier)


def predict_lesions(
    case: Case,
    prompts: Sequence[LesionPrompt],
    placements: Sequence[tuple[Placement, ...]],
    ensemble: Ensemble,
    watch: Stopwatch,
) -> list[LesionPrediction]:
    """The weighted mean of the members for every lesion.

    Members that share a lattice are averaged on it. With several lattices, of several groups or at several zooms, the
    means are averaged on the scan's voxels, over the members whose lattice covers the voxel. The presence is the mean
    over the members that predict it. A prediction's prompt has its click at the aligned position of the heaviest group,
    to which the lesion's component is the nearest.
    """
    groups = ensemble.groups
    lattices = sum(len(_zoom_factors(group)) for group in groups)
    # Several lattices take much memory; the means on the scan's voxels are cropped to the lesion.
    size = max(len(prompts), 1) if lattices == 1 else max(ensemble.batch_size(group[0].settings) for group in groups)
    predictions: list[LesionPrediction] = []
    for start in range(0, len(prompts), size):
        chunk = slice(start, start + size)
        by_lattice = [
            _predict(case, prompts[chunk], [placement.zoomed(factor) for placement in own], group, ensemble, watch)
            for group, own in zip(groups, zip(*placements[chunk], strict=True), strict=True)
            for factor in _zoom_factors(group)
        ]
        with watch("label"):
            predictions += [_mean(case, parts, ensemble.thresholds) for parts in zip(*by_lattice, strict=True)]
    return predictions


def _zoom_factors(group: Sequence[Member]) -> tuple[float, ...]:
    return group[0].settings.inference.zoom_factors


def _predict(
    case: Case,
    prompts: Sequence[LesionPrompt],
    placements: Sequence[Placement],
    group: Sequence[Member],
    ensemble: Ensemble,
    watch: Stopwatch,
) -> list[_GroupPrediction]:
    """Predicts all lesions; those that reach their VOI's border are sampled again, twice as wide.

    The prediction of the smaller VOI is kept where the lesion is not found in the larger one.
    """
    placements = list(placements)
    predict = partial(_predict_placed, case, group=group, ensemble=ensemble, watch=watch)
    predictions = predict(prompts, placements)
    wide = list(range(len(predictions)))
    for _ in range(group[0].settings.voi.growth_limit):
        wide = [index for index in wide if _reaches_border(predictions[index].lesion, ensemble.thresholds)]
        for index in wide:
            placements[index] = placements[index].zoomed(2)
        again = predict([prompts[index] for index in wide], [placements[index] for index in wide])
        found = {
            index: prediction
            for index, prediction in zip(wide, again, strict=True)
            if _is_found(prediction.lesion, ensemble.thresholds)
        }
        for index, prediction in found.items():
            predictions[index] = prediction
        wide = list(found)
    return predictions


def _predict_placed(
    case: Case,
    prompts: Sequence[LesionPrompt],
    placements: Sequence[Placement],
    *,
    group: Sequence[Member],
    ensemble: Ensemble,
    watch: Stopwatch,
) -> list[_GroupPrediction]:
    """Samples and predicts batch by batch, so that few VOIs are in memory at a time."""
    predictions: list[_GroupPrediction] = []
    settings = group[0].settings
    size = ensemble.batch_size(settings)
    lattices = len(_zoom_factors(group))
    sample = partial(sample_voi_pair, case, settings=settings.voi)
    for start in range(0, len(prompts), size):
        batch = slice(start, start + size)
        with watch("sample"), lesion_threads() as pool:
            pairs = list(pool.map(sample, prompts[batch], placements[batch]))
        means = predict_pairs(pairs, group, ensemble, watch)
        predictions += [
            _GroupPrediction(
                lesion=LesionPrediction(
                    prompt=_aligned(prompt, placement),
                    probability=outline,
                    presence=presence,
                    grid=pair.followup.grid,
                    deviation=deviation,
                ),
                weight=sum(member.weight for member in group) / lattices,
                judging_weight=judging_weight / lattices,
            )
            for prompt, placement, pair, (outline, deviation, presence, judging_weight) in zip(
                prompts[batch], placements[batch], pairs, means, strict=True
            )
        ]
    return predictions


def predict_pairs(
    pairs: Sequence[VoiPair], group: Sequence[Member], ensemble: Ensemble, watch: Stopwatch
) -> Iterator[tuple[Float32[np.ndarray, "z y x"], Float32[np.ndarray, "z y x"], float | None, float]]:
    """Each lesion's outline, its deviation, and presence over members of one lattice, and the weight of those judging.

    Outline and presence are means.
    """
    weight = sum(member.weight for member in group)
    outlines, squares = np.zeros((2, len(pairs), *pairs[0].followup.hu.shape), np.float32)
    presences, judging_weight = np.zeros(len(pairs)), 0.0
    for member in group:
        with watch("sample"), one_matrix_thread():
            encoded = encode(pairs, member.settings.encoding)
        with watch("network"):
            outline, presence, deviation = ensemble.predict(encoded, member)
            share = np.float32(member.weight / weight)
            outlines += outline.numpy() * share
            squares += (outline.square() + deviation.square()).numpy() * share
        if presence is not None:
            presences += member.weight * presence.numpy().astype(float)
            judging_weight += member.weight
    deviations = np.sqrt(np.maximum(squares - np.square(outlines), 0))
    for outlined, deviation, total in zip(outlines, deviations, presences.tolist(), strict=True):
        yield outlined, deviation, total / judging_weight if judging_weight else None, judging_weight


def _mean(case: Case, parts: Sequence[_GroupPrediction], thresholds: Thresholds) -> LesionPrediction:
    """The weighted mean of one lesion's predictions: on their lattice if there is one, else on the scan's voxels."""
    first = parts[0].lesion
    if len(parts) == 1:
        return first
    judging_weight = sum(part.judging_weight for part in parts)
    presence = sum(part.judging_weight * part.lesion.presence for part in parts if part.lesion.presence is not None)
    scan = case.followups[first.prompt.followup.scan_name]
    _, grid = scan.grid.lps_view(scan.hu)
    probability, window = mean_probability([(part.lesion, part.weight) for part in parts], grid)
    squares, _ = mean_probability([(_squared(part.lesion), part.weight) for part in parts], grid)
    deviation = np.sqrt(np.maximum(squares - np.square(probability), 0))
    # Below the threshold, only what the pasting of voxels above it depends on is kept.
    box = occupied_box(probability + np.float32(DEVIATIONS) * deviation >= thresholds.threshold)
    low = np.maximum(0, [side.start - _MARGIN_VOXELS for side in box])
    high = np.minimum(probability.shape, [side.stop + _MARGIN_VOXELS for side in box])
    start, stop = voxel_index(low), voxel_index(high)
    return replace(
        first,
        probability=probability[box_slices(start, stop)].copy(),
        presence=presence / judging_weight if judging_weight else None,
        grid=window.window(start, stop),
        deviation=deviation[box_slices(start, stop)].copy(),
    )


def _squared(lesion: LesionPrediction) -> LesionPrediction:
    """The mean square of the probabilities in place of their mean."""
    squares = np.square(lesion.probability)
    return replace(lesion, probability=squares if lesion.deviation is None else squares + np.square(lesion.deviation))


def mean_probability(
    weighted: Sequence[tuple[LesionPrediction, float]], grid: Grid
) -> tuple[Float32[np.ndarray, "z y x"], Grid]:
    """The weighted mean of predictions on the voxels of `grid` (in LPS order), and the window that holds them.

    The mean is over the lattices that cover a voxel: at the edge of one its weight falls with its share of the voxel.
    Where there is none the probability is 0.
    """
    pasted = []
    for prediction, weight in weighted:
        values, box = paste_probability(prediction, grid)
        ones = replace(prediction, probability=np.ones_like(prediction.probability))
        share, _ = paste_probability(ones, grid)
        pasted.append((np.float32(weight) * values, np.float32(weight) * share, box))
    starts, stops = ([[getattr(side, end) for side in box] for *_, box in pasted] for end in ("start", "stop"))
    low, high = np.min(starts, axis=0), np.max(stops, axis=0)
    total, covered = (np.zeros(high - low, np.float32) for _ in range(2))
    for (values, share, _), start, stop in zip(pasted, starts, stops, strict=True):
        own = box_slices(start - low, stop - low)
        total[own] += values
        covered[own] += share
    np.divide(total, covered, out=total, where=covered > 0)
    return total, grid.window(voxel_index(low), voxel_index(high))


@contextmanager
def one_matrix_thread() -> Iterator[None]:
    """Lets NumPy multiply matrices in one thread."""
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    """NumPy's library of matrix products; to look for it takes as long as to encode a small window."""
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def lesion_threads() -> Iterator[ThreadPoolExecutor]:
    """A pool with one lesion per thread: a lesion's matrices are too small for several threads to share."""
    with one_matrix_thread(), ThreadPoolExecutor() as pool:
        yield pool


def _aligned(prompt: LesionPrompt, placement: Placement) -> LesionPrompt:
    """The prompt with its click at the aligned position."""
    click = Click(scan_name=prompt.followup.scan_name, point_xyz_mm=placement.followup_xyz_mm)
    return replace(prompt, followup=click)


def _is_found(prediction: LesionPrediction, thresholds: Thresholds) -> bool:
    return not prediction.is_gone(thresholds.presence_threshold) and bool(
        (prediction.probability >= thresholds.threshold).any()
    )


def _reaches_border(prediction: LesionPrediction, thresholds: Thresholds) -> bool:
    if not _is_found(prediction, thresholds):
        return False
    mask = prediction.probability >= thresholds.threshold
    return any(bool(np.take(mask, side, axis=axis).any()) for axis in range(3) for side in (0, -1))
