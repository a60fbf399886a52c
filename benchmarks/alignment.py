"""`python -m benchmarks.alignment`: what is left of the clicks' errors after local alignment, by tissue and by fate.

Whole scans with lesions in all tissues and the challenge's clicks, and lesions inserted into a real pair. The error is
that of the follow-up VOI against the baseline VOI: zero where both show the same anatomy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.inserted_pair import inserted_pair
from benchmarks.pair_folder import read_pair
from longilesion.alignment import place_vois
from longilesion.case import lesion_regions
from longilesion.config import AlignmentSettings, ModelSettings, SearchStep
from longilesion.ensemble import load_ensemble
from longilesion.evaluation.exam import Fate
from longilesion.prompts import complete_prompts
from longilesion.shipped import SHIPPED_MODEL
from training.command import run_command
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.real_shapes import RealShapes
from training.synthesis.settings import MotionSettings, SynthesisSettings, TissueShares
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources

# All tissues and fates alike, and more motion than in training.
_DRAWN = SynthesisSettings(
    tissues=TissueShares(soft=0.3, lung=0.3, fat=0.2, bone=0.2),
    motion=MotionSettings(deformation_mm=(1.0, 3.0), breathing_mm=10.0),
    whole_attempts=(16, 24),
)
_TISSUES = {"Lung": "lung", "Skeleton": "bone", "Soft tissue / Skin": "fat", "Lymph node": "fat"}
REAL_PAIR = "real pair"
# A larger error moves most lesions to the border of their VOI.
_FAR_MM = 10.0
# A change of radius by more than this counts as growth or shrinkage.
_CHANGE = 1.12

_SOFT, _WIDE, _LUNG, _BONE = (-150.0, 250.0), (-1000.0, 250.0), (-1000.0, -200.0), (200.0, 1000.0)
_ONE_STEP = (SearchStep(spacing_mm=2.5, template_radius_mm=20.0, search_radius_mm=40.0),)
METHODS: dict[str, AlignmentSettings] = {
    "none: as clicked": AlignmentSettings(
        steps=(SearchStep(spacing_mm=5.0, template_radius_mm=20.0, search_radius_mm=0.0),)
    ),
    "one step, [-150, 250] (0.2.0)": AlignmentSettings(windows_hu=(_SOFT,), steps=_ONE_STEP, lesion_weight=1.0),
    "one step, [-1000, 250]": AlignmentSettings(windows_hu=(_WIDE,), steps=_ONE_STEP, lesion_weight=1.0),
    "one step, both windows": AlignmentSettings(steps=_ONE_STEP, lesion_weight=1.0),
    "two steps, [-150, 250]": AlignmentSettings(windows_hu=(_SOFT,)),
    "two steps, [-1000, 250]": AlignmentSettings(windows_hu=(_WIDE,)),
    "two steps, both windows": AlignmentSettings(),
    "the same, first step alone": AlignmentSettings(steps=AlignmentSettings().steps[:1]),
    "the same and bone, [200, 1000]": AlignmentSettings(windows_hu=(_LUNG, _SOFT, _BONE)),
    "the same, lesion's weight 1": AlignmentSettings(lesion_weight=1.0),
    "the same, lesion's weight 0": AlignmentSettings(lesion_weight=0.0),
}


@dataclass
class Arguments:
    """What to measure."""

    data: Path | None = None
    """A folder of CT volumes, one subfolder each; phantoms where it is not given."""
    pair: Path | None = None
    """A folder with a real pair and its landmarks."""
    pairs: int = 1
    """Pairs drawn of each volume."""
    seed: int = 77


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """What is left of a click's error."""

    tissue: str
    change: str
    error_mm: float


def aligned(pair: SyntheticPair, settings: ModelSettings, *, is_real: bool) -> Iterator[Aligned]:
    """The errors of all lesions of a pair."""
    exact = {clicks.lesion_id: clicks for clicks in pair.exact_clicks}
    changes = _changes(pair)
    for prompt in complete_prompts(pair.case).lesions:
        clicks, placement = exact.get(prompt.lesion_id), place_vois(pair.case, prompt, settings)
        if clicks is None or clicks.baseline is None or clicks.followup is None or placement.baseline_xyz_mm is None:
            continue
        before = np.subtract(placement.baseline_xyz_mm, clicks.baseline.point_xyz_mm)
        after = np.subtract(placement.followup_xyz_mm, clicks.followup.point_xyz_mm)
        tissue = _TISSUES.get(pair.facts[prompt.lesion_id].lesion_type or "", "soft")
        yield Aligned(
            tissue=REAL_PAIR if is_real else tissue,
            change=changes[prompt.lesion_id],
            error_mm=float(np.linalg.norm(after - before)),
        )


def _changes(pair: SyntheticPair) -> dict[int, str]:
    """By lesion id, the fate, where persisting ones grow, shrink or stay."""
    prior = pair.case.baselines["primary"]
    after = lesion_regions(pair.truth.ids)
    changes: dict[int, str] = {}
    for lesion_id, fact in pair.facts.items():
        fate: Fate | None = fact.fate
        changes[lesion_id] = str(fate)
        if fate == "persists":
            voxels_ml = prior.scan.grid.voxel_volume_ml, pair.truth.grid.voxel_volume_ml
            volume_ml = prior.regions[lesion_id].voxels * voxels_ml[0], after[lesion_id].voxels * voxels_ml[1]
            ratio = (volume_ml[1] / volume_ml[0]) ** (1 / 3)
            changes[lesion_id] = "grows" if ratio > _CHANGE else "shrinks" if ratio < 1 / _CHANGE else "stays"
    return changes


def print_errors(
    pairs: Sequence[tuple[SyntheticPair, bool]], model: ModelSettings, console: Console
) -> dict[str, list[Aligned]]:
    """Prints a row per method: the errors' median and 90th percentile, and the share over 10 mm."""
    found = {
        name: [
            each
            for pair, is_real in pairs
            for each in aligned(pair, model.model_copy(update={"alignment": settings}), is_real=is_real)
        ]
        for name, settings in METHODS.items()
    }
    columns: dict[str, Callable[[Aligned], bool]] = {
        "all": lambda each: each.tissue != REAL_PAIR,
        **{
            tissue: lambda each, tissue=tissue: each.tissue == tissue
            for tissue in ("soft", "lung", "fat", "bone", REAL_PAIR)
        },
        **{
            change: lambda each, change=change: each.tissue != REAL_PAIR and each.change == change
            for change in ("stays", "grows", "shrinks", "gone", "new")
        },
    }
    first = next(iter(found.values()))
    columns = {name: chosen for name, chosen in columns.items() if any(map(chosen, first))}
    table = Table(title="error after alignment, mm: median / p90 (share over 10 mm)")
    table.add_column("alignment")
    for name, chosen in columns.items():
        table.add_column(f"{name} ({sum(map(chosen, first))})", justify="right")
    for name, errors in found.items():
        table.add_row(
            name, *(_summary([each.error_mm for each in errors if each_is(each)]) for each_is in columns.values())
        )
    console.print(table)
    return found


def _summary(errors_mm: Sequence[float]) -> str:
    median, p90 = np.quantile(errors_mm, (0.5, 0.9))
    return f"{median:.1f} / {p90:.1f} ({np.mean(np.array(errors_mm) > _FAR_MM):.0%})"


def drawn_pairs(sources: Sequence[Source], *, pairs: int, seed: int) -> Iterator[SyntheticPair]:
    """Pairs of whole volumes."""
    for number, source in enumerate(sources):
        for repeat in range(pairs):
            generator = np.random.default_rng((seed, number, repeat))
            yield synthetic_pair(source, generator, shapes=sources, settings=_DRAWN, whole=True)


def measure(arguments: Arguments) -> None:
    """Prints the table."""
    data = arguments.data
    sources = phantom_sources(range(4)) if data is None else load_sources(data, find_volumes(data))
    pairs = [(pair, False) for pair in drawn_pairs(sources, pairs=arguments.pairs, seed=arguments.seed)]
    if arguments.pair is not None:
        folder = read_pair(arguments.pair)
        pairs += [
            (
                inserted_pair(
                    folder,
                    np.random.default_rng((arguments.seed, number)),
                    lesions=8,
                    shapes=RealShapes(),
                    settings=SynthesisSettings(),
                ),
                True,
            )
            for number in range(10)
        ]
    print_errors(pairs, load_ensemble(SHIPPED_MODEL).main_settings, Console(width=200))


if __name__ == "__main__":
    sys.exit(run_command(measure, Arguments, __doc__))
