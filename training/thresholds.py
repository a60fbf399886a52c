"""Chooses a model's thresholds on synthetic pairs: `python -m training.thresholds MODEL --output OUT --data CT_FOLDER`.

The pairs should be of volumes that neither trained the model nor give its figures: a fold of the recipe that every
member leaves out (`--fold`). Both thresholds apply to the mean of all members, so they are chosen on that mean.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from longilesion.bundle import read_manifest, save_members
from longilesion.config import Thresholds
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.exam import Prediction, ScoringSettings
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.scoring import score_exam
from longilesion.evaluation.tables import Section, to_rich
from longilesion.labelling import label_lesions
from longilesion.prediction import place_lesions, predict_lesions
from longilesion.prompts import complete_prompts
from longilesion.timing import Stopwatch
from training.command import run_command
from training.held_out import HeldOutOptions
from training.synthesis.exams import exam_of
from training.synthesis.pairs import SyntheticPair

_log = logging.getLogger("training")

OUTLINE_THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


@dataclass(kw_only=True)
class Arguments(HeldOutOptions):
    """Command line."""

    model: tyro.conf.Positional[Path]
    """The bundle; it is not changed."""
    output: Path
    """Bundle to write: the same members with the chosen thresholds."""
    seed: int = 7
    kept: float = 0.97
    """The share of the persisting lesions that the presence threshold keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A lesion: its presence, whether it is there, and was before, and its Dice at each outline threshold, if it is."""

    presence: float
    is_present: bool
    is_persisting: bool
    dice: tuple[float | None, ...]


def choose(arguments: Arguments) -> Thresholds:
    """Chooses both thresholds, prints what others would give, and writes the bundle.

    The outline's has the highest mean Dice of the present lesions, all of them kept. Raises InputError where no lesion
    is there, or the model predicts no presence.
    """
    if not 0 < arguments.kept < 1:
        raise InputError(f"--kept {arguments.kept:g}; expected a share between 0 and 1")
    pairs = arguments.pairs("judging")
    ensemble = load_ensemble(arguments.model)
    judged: list[Judged] = []
    volumes: dict[str, None] = {}
    for name, pair in pairs:
        volumes[name.rpartition("/")[0]] = None
        judged += judged_lesions(pair, ensemble, name)
    thresholds = chosen_thresholds(judged, kept=arguments.kept)
    for table in tables(judged):
        Console(width=120).print(to_rich(table))
    _log.info(
        "chosen of %d lesions: outline from %g, presence from %g",
        len(judged),
        thresholds.threshold,
        thresholds.presence_threshold,
    )
    provenance = read_manifest(arguments.model).provenance
    said = f"{arguments.cases} synthetic pairs of {', '.join(volumes)}, seed {arguments.seed}"
    provenance = provenance | {"thresholds": said}
    save_members(arguments.output, ensemble.members, thresholds, provenance=provenance)
    return thresholds


def judged_lesions(pair: SyntheticPair, ensemble: Ensemble, name: str) -> Iterator[Judged]:
    """Outlines a pair's lesions once, and labels them with every threshold, keeping all."""
    everything = Thresholds(threshold=min(OUTLINE_THRESHOLDS), presence_threshold=0.0)
    ensemble = replace(ensemble, thresholds=everything)
    watch = Stopwatch("sample", "network", "label")
    prompts = complete_prompts(pair.case).lesions
    predictions = predict_lesions(
        pair.case, prompts, place_lesions(pair.case, prompts, ensemble, watch), ensemble, watch
    )
    presence = {each.prompt.lesion_id: each.presence for each in predictions}
    if None in presence.values():
        raise InputError(f"{ensemble.name}: no member predicts the presence; expected one whose threshold to choose")
    exam = exam_of(name, pair)
    by_threshold: list[Mapping[int, LesionScore]] = []
    for threshold in OUTLINE_THRESHOLDS:
        labelled = label_lesions(
            predictions,
            pair.case.followups["primary"].grid,
            everything.model_copy(update={"threshold": threshold}),
        )
        prediction = Prediction(maps={"primary": labelled.lesions}, presence={}, merged_into=dict(labelled.merged_into))
        score = score_exam(exam, prediction, ScoringSettings())
        by_threshold.append({lesion.lesion_id: lesion for lesion in score.lesions})
    for lesion_id, lesion in by_threshold[0].items():
        if lesion.is_present is not None:
            yield Judged(
                presence=presence.get(lesion_id) or 0.0,
                is_present=lesion.is_present,
                is_persisting=lesion.is_persisting,
                dice=tuple(scores[lesion_id].challenge_dice for scores in by_threshold),
            )


def chosen_thresholds(judged: Sequence[Judged], *, kept: float) -> Thresholds:
    """The outline threshold of the highest mean Dice, and the presence that a share `kept` of what persists reaches.

    Raises InputError where none persists.
    """
    if not _persisting(judged):
        raise InputError(f"none of {len(judged)} lesions persists; expected some to choose thresholds on")
    best = int(np.argmax(_mean_dice([lesion for lesion in judged if lesion.is_present])))
    presence = float(np.quantile(_persisting(judged), 1 - kept))
    return Thresholds(threshold=OUTLINE_THRESHOLDS[best], presence_threshold=round(presence, 3))


def tables(judged: Sequence[Judged]) -> Iterator[Section]:
    """The mean Dice at every outline threshold, and what is recognised at several shares of persisting lesions kept."""
    present = [lesion for lesion in judged if lesion.is_present]
    gone = [lesion.presence for lesion in judged if not lesion.is_present]
    yield Section(
        title=f"Outline threshold, {len(present)} present lesions",
        headings=("threshold", "Dice"),
        rows=tuple(
            (f"{threshold:g}", f"{dice:.4f}")
            for threshold, dice in zip(OUTLINE_THRESHOLDS, _mean_dice(present), strict=True)
        ),
    )
    rows = []
    for kept in (0.99, 0.98, 0.97, 0.96, 0.95, 0.9):
        threshold = float(np.quantile(_persisting(judged), 1 - kept))
        recognised = f"{np.mean(np.array(gone) < threshold):.3f}" if gone else "-"
        rows.append((f"{kept:g}", f"{threshold:.3f}", recognised))
    yield Section(
        title=f"Presence threshold, {len(_persisting(judged))} lesions that persist, {len(gone)} that are gone",
        headings=("persisting kept", "threshold", "gone recognised"),
        rows=tuple(rows),
    )


def _persisting(judged: Sequence[Judged]) -> list[float]:
    """The presence of the persisting lesions."""
    return [lesion.presence for lesion in judged if lesion.is_persisting]


def _mean_dice(present: Sequence[Judged]) -> list[float]:
    by_threshold = zip(*(lesion.dice for lesion in present), strict=True)
    return [float(np.mean([0.0 if dice is None else dice for dice in own])) for own in by_threshold]


def main() -> int:
    """Command line; 1 where the model or the data cannot be used."""
    return run_command(choose, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
