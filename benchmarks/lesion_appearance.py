"""What synthetic lesions look like: a picture of each kind, and their noise against that of their surroundings.

python -m benchmarks.lesion_appearance --output kinds.png
python -m benchmarks.lesion_appearance --data CT_FOLDER --pairs 40
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from rich.console import Console
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from longilesion.case import LesionMap, LesionRegion, Scan, lesion_regions
from longilesion.files import check_picture, written_together
from longilesion.geometry import box_slices
from longilesion.markdown import markdown_table
from training.command import run_command
from training.synthesis.lesions import Tissue
from training.synthesis.noise import measured_noise
from training.synthesis.pairs import synthetic_pair
from training.synthesis.preview import WINDOWS
from training.synthesis.settings import (
    BoneKinds,
    FateShares,
    LungKinds,
    NodeKinds,
    SoftKinds,
    SynthesisSettings,
    TissueShares,
)
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources

# In-plane Gaussians, in voxels, whose differences are the bands of the noise.
_BANDS = {"fine": (0.0, 1.0), "medium": (1.0, 2.0)}
_FEWEST_VOXELS = 60
# The surroundings are a shell of so many voxels, beyond a gap, and soft tissue where a lesion lies in something else.
_GAP, _SHELL = 5, 8
# Voxels beside a border, where it adds to the bands.
_EDGE = 5
_SOFT_HU = (0.0, 150.0)
_FIELD_MM, _COLUMNS = 70.0, 4
# Pairs of a kind that are looked through for a row of the picture, for lesions of these widths in scans of less noise.
_TRIES = 100
_WIDTHS_MM: dict[Tissue, tuple[float, float]] = {"soft": (24, 45), "lung": (12, 30), "fat": (12, 30), "bone": (12, 40)}
_NOISY_HU = 20.0
_TISSUES: tuple[Tissue, ...] = ("soft", "lung", "fat", "bone")


@dataclass
class Arguments:
    """Command line of the benchmark."""

    data: Path | None = None
    """Folder with one subfolder per CT volume (`ct.nii.gz`); phantoms where it is not given."""
    pairs: int = 20
    """Pairs per tissue for the table of noise; 0 leaves it out."""
    output: Path | None = None
    """Picture (PNG) of the kinds."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A kind of lesion: its caption, where it lies, the window of a reader, and the settings that draw it alone."""

    caption: str
    tissue: Tissue
    window: str
    settings: SynthesisSettings


def rows() -> list[Row]:
    """The kinds in the order of the picture."""
    return [
        Row(caption="spiculated", tissue="lung", window="lung", settings=_only("lung", lung=LungKinds(spiculated=1))),
        Row(caption="part-solid", tissue="lung", window="lung", settings=_only("lung", lung=LungKinds(part_solid=1))),
        Row(caption="cavitating", tissue="lung", window="lung", settings=_only("lung", lung=LungKinds(cavitating=1))),
        Row(caption="at the pleura", tissue="lung", window="lung", settings=_only("lung", lung=LungKinds(at_pleura=1))),
        Row(
            caption="subcapsular",
            tissue="soft",
            window="soft tissue",
            settings=_only("soft", soft=SoftKinds(subcapsular=1, rim=0.5)),
        ),
        Row(caption="rim", tissue="soft", window="soft tissue", settings=_only("soft", soft=SoftKinds(rim=1))),
        Row(
            caption="necrotic", tissue="soft", window="soft tissue", settings=_only("soft", soft=SoftKinds(necrotic=1))
        ),
        Row(caption="lytic", tissue="bone", window="bone", settings=_only("bone", bone=BoneKinds(lytic=1))),
        Row(caption="sclerotic", tissue="bone", window="bone", settings=_only("bone", bone=BoneKinds(sclerotic=1))),
        Row(
            caption="fatty hilum",
            tissue="fat",
            window="soft tissue",
            settings=_only("fat", node=NodeKinds(hilum=1), node_share=1.0),
        ),
    ]


def draw(sources: Sequence[Source], *, seed: int) -> Figure:
    """Draws a row per kind: two lesions, each in the baseline and in the follow-up."""
    kinds = rows()
    figure = Figure(figsize=(2.1 * _COLUMNS, 2.15 * len(kinds)), dpi=80, facecolor="white", layout="constrained")
    axes = figure.subplots(len(kinds), _COLUMNS, squeeze=False)
    for row, kind in enumerate(kinds):
        low, high = WINDOWS[kind.window]
        views = _views(sources, kind, seed=seed)
        for column, axis in enumerate(axes[row]):
            plane, extent, y, x = next(views)
            axis.imshow(plane, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
            axis.set_xlim(x - _FIELD_MM / 2, x + _FIELD_MM / 2)
            axis.set_ylim(y + _FIELD_MM / 2, y - _FIELD_MM / 2)
            axis.set_facecolor("black")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(("baseline", "follow-up")[column % 2], fontsize=9)
        axes[row, 0].set_ylabel(f"{kind.caption}\n{kind.window} window", fontsize=9)
    return figure


def noise_table(sources: Sequence[Source], *, pairs: int, seed: int) -> list[str]:
    """The noise in painted lesions against that around them, by tissue and band, in Markdown."""
    cells = []
    for tissue in _TISSUES:
        ratios: dict[str, list[float]] = {band: [] for band in _BANDS}
        for scan, lesions in _scans(sources, _only(tissue), pairs=pairs, seed=seed):
            for found in _ratios(scan, lesions, tissue):
                for band, ratio in zip(_BANDS, found, strict=True):
                    ratios[band].append(ratio)
        count = len(next(iter(ratios.values())))
        spreads = [
            "{1:.2f} ({0:.2f}-{2:.2f})".format(*np.quantile(each, [0.1, 0.5, 0.9])) for each in ratios.values() if each
        ]
        cells.append((tissue, str(count), *(spreads or ["-"] * len(_BANDS))))
    headings = ["tissue", "lesions", *(f"{band} noise in the lesion / around: median (p10-p90)" for band in _BANDS)]
    return markdown_table(headings, cells)


def _only(tissue: Tissue, **kinds: object) -> SynthesisSettings:
    """Settings that draw persisting painted lesions of one tissue."""
    shares = {each: float(each == tissue) for each in _TISSUES}
    base = SynthesisSettings(
        tissues=TissueShares(**shares),
        fates=FateShares(persists=1, new=0, gone=0),
        real_share=0.0,
        distractor_share=0.0,
        organ_share=1.0,
        organs=("liver",),
    )
    return base.model_copy(update=kinds)


def _scans(
    sources: Sequence[Source], settings: SynthesisSettings, *, pairs: int, seed: int
) -> Iterator[tuple[Scan, LesionMap]]:
    for number in range(pairs):
        source = sources[number % len(sources)]
        pair = synthetic_pair(source, np.random.default_rng((seed, number)), shapes=(), settings=settings)
        prior = pair.case.baselines["primary"]
        if prior.lesions is not None:
            yield prior.scan, prior.lesions
        yield pair.case.followups["primary"], pair.truth


def _views(
    sources: Sequence[Source], kind: Row, *, seed: int
) -> Iterator[tuple[Float[np.ndarray, "y x"], tuple[float, float, float, float], float, float]]:
    """Slices through lesions in both scans of pairs with little noise: the plane, its extent, the centre in mm."""
    for number in range(_TRIES):
        source = sources[number % len(sources)]
        generator = np.random.default_rng((seed, number))
        pair = synthetic_pair(source, generator, shapes=(), settings=kind.settings)
        prior, scan = pair.case.baselines["primary"], pair.case.followups["primary"]
        if not pair.facts or prior.lesions is None:
            continue
        middle = np.array(prior.scan.grid.shape_zyx) / 2
        before, after = lesion_regions(prior.lesions.ids), lesion_regions(pair.truth.ids)
        lesion_id = min(
            pair.facts,
            key=lambda each: float(np.linalg.norm([(s.start + s.stop) / 2 for s in before[each].box] - middle)),
        )
        low_mm, high_mm = _WIDTHS_MM[kind.tissue]
        shown = (prior.scan, before[lesion_id]), (scan, after[lesion_id])
        if not all(low_mm < _width_mm(*each) < high_mm and _noise_hu(each[0]) < _NOISY_HU for each in shown):
            continue
        for image, region in shown:
            z, y, x = ((side.start + side.stop - 1) / 2 for side in region.box)
            _, dy, dx = image.grid.spacing_zyx_mm
            _, height, width = image.hu.shape
            extent = (-dx / 2, (width - 0.5) * dx, (height - 0.5) * dy, -dy / 2)
            yield image.hu[round(z)].astype(float), extent, y * dy, x * dx


def _noise_hu(scan: Scan) -> float:
    return measured_noise(torch.from_numpy(scan.hu.astype(np.float32))).deviation_hu


def _width_mm(scan: Scan, region: LesionRegion) -> float:
    side = region.box[2]
    return float((side.stop - side.start) * scan.grid.spacing_zyx_mm[2])


def _ratios(scan: Scan, lesions: LesionMap, tissue: Tissue) -> Iterator[tuple[float, ...]]:
    """The noise in each lesion's inside relative to its surroundings, by band."""
    margin = np.array([1, _GAP + _SHELL + 4, _GAP + _SHELL + 4])
    plane = np.ones((1, 3, 3), bool)
    for lesion_id, region in lesion_regions(lesions.ids).items():
        low = np.maximum([side.start for side in region.box] - margin, 0)
        high = np.minimum([side.stop for side in region.box] + margin, scan.hu.shape)
        box = box_slices(low, high)
        hu, ids = scan.hu[box].astype(np.float32), lesions.ids[box]
        inside = binary_erosion(ids == lesion_id, plane, iterations=_EDGE)
        smooth = gaussian_filter(hu, (0, 2, 2))
        if tissue == "soft":
            near = binary_dilation(ids > 0, plane, iterations=_GAP)
            around = binary_dilation(near, plane, iterations=_SHELL) & ~near
            around &= np.abs(smooth - np.median(smooth[around])) < 40
        else:
            around = ~binary_dilation(ids > 0, plane, iterations=_GAP)
        around &= binary_erosion((smooth > _SOFT_HU[0]) & (smooth < _SOFT_HU[1]), plane, iterations=_EDGE)
        if min(inside.sum(), around.sum()) < _FEWEST_VOXELS:
            continue
        bands = [
            gaussian_filter(hu, (0, fine, fine)) - gaussian_filter(hu, (0, coarse, coarse))
            for fine, coarse in _BANDS.values()
        ]
        yield tuple(_deviation(band, inside) / max(_deviation(band, around), 1e-3) for band in bands)


def _deviation(band: Float[np.ndarray, "z y x"], mask: Bool[np.ndarray, "z y x"]) -> float:
    """The deviation without outliers, which are anatomy."""
    values = band[mask]
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def benchmark(arguments: Arguments) -> None:
    """Prints the table and writes the picture."""
    sources = (
        phantom_sources(range(3))
        if arguments.data is None
        else load_sources(arguments.data, find_volumes(arguments.data))
    )
    if arguments.output is not None:
        figure = draw(sources, seed=arguments.seed)
        with written_together({arguments.output: check_picture}) as (temporary,):
            figure.savefig(temporary, format="png")
    if arguments.pairs:
        console = Console(width=160)
        for line in noise_table(sources, pairs=arguments.pairs, seed=arguments.seed):
            console.print(line, soft_wrap=True, markup=False)


def main() -> int:
    """Command line; 1 where the data cannot be used."""
    return run_command(benchmark, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
