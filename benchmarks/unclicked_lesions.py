"""Search for lesions that nobody clicked: recall and false positives per scan, on prepared exams of an organ.

`python -m benchmarks.unclicked_lesions EXAMS --detector BUNDLE [--fold K]`, where EXAMS is a folder of
`training.prepare synthetic --organ ORGAN`, on real CT or on phantoms. The lesions that are new in the follow-up are
hidden: neither clicked nor outlined. The others are known and segmented as usual, and `--find-new` has to find those
that are hidden. A lesion is found where a candidate has an IoU of at least 0.1 with it; a candidate is false where it
touches no lesion.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Bool
from rich.console import Console
from rich.progress import track
from rich.table import Table

from longilesion.case import Case, lesion_regions
from longilesion.ensemble import Ensemble, load_detector, load_ensemble
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.measures import Outline, largest_axial_diameter_mm
from longilesion.evaluation.reading import read_exam
from longilesion.grand_challenge import read_case
from longilesion.new_lesions import Search
from longilesion.pipeline import segment_case
from longilesion.shipped import SHIPPED_MODEL
from training.command import run_command
from training.preparation.prepared import PreparedCase, read_organ, read_prepared

LEAST_IOU = 0.1
SIZES_MM = ((6, 10), (10, 20), (20, 400))
SCORES = (0.5, 0.7, 0.9)


@dataclass
class Arguments:
    """Command line of the benchmark."""

    exams: tyro.conf.Positional[Path]
    """A prepared data set of exams."""
    detector: Path | None = None
    """The bundle that searches; the shipped one if not given."""
    model: Path = SHIPPED_MODEL
    """The bundle that segments the known lesions."""
    fold: int | None = None
    """Only the exams held out in this fold; all if not given."""
    cases: int = 30
    """Exams at most, spread over the data set."""
    organ: bool = True
    """Search in the organ; else in the whole body that the scan shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A lesion that was to be found: its diameter, and the best score of a candidate that is it, 0 for none."""

    diameter_mm: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Searched:
    """An exam's hidden lesions, and the scores of its false candidates."""

    hidden: tuple[Hidden, ...]
    false_scores: tuple[float, ...]


def run(arguments: Arguments) -> None:
    """Searches the exams and prints the table."""
    data = read_prepared(arguments.exams)
    held_out = data.cases if arguments.fold is None else data.split(arguments.fold)[1]
    chosen = np.unique(np.linspace(0, len(held_out) - 1, min(arguments.cases, len(held_out))).round().astype(int))
    ensemble = load_ensemble(arguments.model)
    detector = load_detector(ensemble, arguments.detector, model=arguments.model)
    searched = [
        searched_exam(held_out[number], ensemble, detector, in_organ=arguments.organ)
        for number in track(chosen.tolist(), "searching", console=Console(stderr=True))
    ]
    Console(width=120).print(results(searched))


def searched_exam(exam: PreparedCase, ensemble: Ensemble, detector: Ensemble, *, in_organ: bool) -> Searched:
    """Hides an exam's new lesions and searches for them."""
    case, _ = read_case(exam.folder / "input")
    truth, _ = read_exam(find_exams(exam.folder)[0])
    new = {lesion_id for lesion_id, fact in truth.facts.items() if fact.fate == "new"}
    found = segment_case(_hidden(case, new, exam, in_organ=in_organ), ensemble, search=Search(detector=detector))
    lesions = truth.truth["primary"]
    view, _ = lesions.grid.lps_view(lesions.ids)
    regions = lesion_regions(lesions.ids)
    candidates = [(each.candidate.box, each.candidate.mask, each.candidate.score) for each in found.candidates]
    hidden = []
    for lesion_id in sorted(new & regions.keys()):
        is_lesion = view == lesion_id
        scores = [score for box, mask, score in candidates if _iou(is_lesion, box, mask) >= LEAST_IOU]
        outline = Outline.of(lesions, [lesion_id], [regions[lesion_id]])
        hidden.append(Hidden(diameter_mm=largest_axial_diameter_mm(outline), score=max(scores, default=0.0)))
    return Searched(
        hidden=tuple(hidden),
        false_scores=tuple(score for box, mask, score in candidates if not (view[box] > 0)[mask].any()),
    )


def results(searched: Sequence[Searched]) -> Table:
    """Recall by diameter and false candidates per scan, by the least score."""
    hidden = [lesion for exam in searched for lesion in exam.hidden]
    table = Table(title=f"{len(searched)} exams, {len(hidden)} hidden lesions: recall (lesions), false positives")
    table.add_column("score from", justify="right")
    for low, high in SIZES_MM:
        table.add_column(f"{low}-{high} mm", justify="right")
    table.add_column("over 6 mm", justify="right")
    table.add_column("false per scan", justify="right")
    for least in SCORES:
        cells = [
            _share([lesion.score >= least for lesion in hidden if low <= lesion.diameter_mm < high])
            for low, high in (*SIZES_MM, (SIZES_MM[0][0], SIZES_MM[-1][1]))
        ]
        false = [sum(score >= least for score in exam.false_scores) for exam in searched]
        table.add_row(f"{least:g}", *cells, f"{np.mean(false):.2f}")
    return table


def _hidden(case: Case, new: set[int], exam: PreparedCase, *, in_organ: bool) -> Case:
    """The case without the clicks of its new lesions, with the follow-up's organ mask."""
    clicks = tuple(pair for pair in case.clicks if pair.lesion_id not in new)
    scan = case.followups["primary"]
    if in_organ:
        scan = replace(scan, organ=read_organ(exam, "primary-followup-ct", scan.grid))
    return replace(case, clicks=clicks, followups={"primary": scan})


def _iou(lesion: Bool[np.ndarray, "z y x"], box: tuple[slice, ...], mask: Bool[np.ndarray, "a b c"]) -> float:
    both = int((lesion[box] & mask).sum())
    return both / (int(lesion.sum()) + int(mask.sum()) - both)


def _share(flags: Sequence[bool]) -> str:
    return f"{np.mean(flags):.2f} ({len(flags)})" if flags else "-"


def main() -> int:
    """Command line; 1 where a bundle or the exams cannot be used."""
    return run_command(run, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
