"""Statistics of synthetic pairs, beside published numbers of real and of other synthetic lesions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt

from longilesion.case import LesionMap, Scan, lesion_regions
from longilesion.evaluation.exam import FATES, Fate
from longilesion.evaluation.measures import Outline, centre_xyz_mm, largest_axial_diameter_mm
from longilesion.geometry import Triple, box_slices
from longilesion.markdown import markdown_table
from training.synthesis.pairs import SyntheticPair

# Click errors are published in voxels of this size.
CHALLENGE_VOXEL_XYZ_MM = (0.775, 0.775, 3.0)
_SHELL_MM = 5.0
# Their Hounsfield units are independent of those of the surrounding tissue.
_NOT_SOFT = ("Lung", "Lymph node", "Skeleton", "Soft tissue / Skin")

_CHALLENGE = "the challenge's 300 patients, 4,530 lesions"
_CLICKS = "the challenge's follow-up clicks, 2,605 lesions"
_REAL_LIVERS = "LiFE-Net, section 3.1: real livers"
_SYNTHETIC_LIVERS = "LiFE-Net, appendices B and C: synthetic livers"
_FATE_SHARES = {"persists": "53.5 %", "new": "12.3 %", "gone": "30.5 %", "merged": "3.7 %"}
_PER_PAIR = {"baseline": "1.25 (0-40)", "followup": "1.82 (0-46)"}
_DIAMETERS = {"baseline": "23.3 (6.2-189.0)", "followup": "21.6 (6.4-118.1)"}
_VOLUMES = {"baseline": "16.05 (0.06-448.93)", "followup": "10.1 (0.08-255.02)"}
_CLICK_VOXELS = {0.5: "3.7", 0.75: "11.1", 0.9: "23.1", 0.95: "34.0", 0.99: "79.7"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A lesion's outline in one scan; the contrast is its mean HU less the median of a shell of 5 mm around it."""

    volume_ml: float
    diameter_mm: float
    contrast_hu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionNumbers:
    """Measurements of one lesion of a pair; None where it is not outlined in a scan.

    The follow-up click's error is its offset from the lesion's centre.
    """

    lesion_id: int
    fate: Fate
    lesion_type: str
    baseline: Measured | None
    followup: Measured | None
    click_error_xyz_mm: Triple | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A quantity of the drawn pairs, its published value, and the population of that; empty where unpublished."""

    quantity: str
    drawn: str
    published: str = ""
    source: str = ""


def lesion_numbers(pair: SyntheticPair) -> list[LesionNumbers]:
    """Measures the lesions of a pair; one that has merged has no follow-up outline."""
    prior, scan = pair.case.baselines["primary"], pair.case.followups["primary"]
    before = {} if prior.lesions is None else _outlines(prior.lesions)
    after = _outlines(pair.truth)
    clicks = {click.lesion_id: click.followup for click in pair.case.clicks}
    numbers = []
    for lesion_id, fact in pair.facts.items():
        old = before.get(lesion_id)
        now = after.get(lesion_id) if fact.true_id == lesion_id else None
        click = clicks[lesion_id]
        error = None
        if now is not None and click is not None:
            x, y, z = np.subtract(click.point_xyz_mm, centre_xyz_mm(now)).tolist()
            error = x, y, z
        numbers.append(
            LesionNumbers(
                lesion_id=lesion_id,
                fate=fact.fate,
                lesion_type=fact.lesion_type,
                baseline=None if old is None or prior.lesions is None else measured(old, prior.scan, prior.lesions),
                followup=None if now is None else measured(now, scan, pair.truth),
                click_error_xyz_mm=error,
            )
        )
    return numbers


def measured(outline: Outline, scan: Scan, lesions: LesionMap) -> Measured:
    """Measures an outline of a map in its scan; the shell around it excludes other lesions."""
    margin = np.ceil(_SHELL_MM / np.array(scan.grid.spacing_zyx_mm)).astype(int)
    low = np.maximum(np.array(outline.start_zyx) - margin, 0)
    high = np.minimum(np.array(outline.stop_zyx) + margin, scan.grid.shape_zyx)
    box = box_slices(low, high)
    hu, ids = scan.hu[box], lesions.ids[box]
    ends = np.stack([np.array(outline.start_zyx) - low, high - outline.stop_zyx], axis=1)
    mask = np.pad(outline.mask, ends.tolist())
    distance_mm = distance_transform_edt(~mask, sampling=scan.grid.spacing_zyx_mm)
    shell = hu[(distance_mm <= _SHELL_MM) & (ids == 0)]
    return Measured(
        volume_ml=float(mask.sum()) * scan.grid.voxel_volume_ml,
        diameter_mm=largest_axial_diameter_mm(outline),
        contrast_hu=float(hu[mask].mean()) - float(np.median(shell if len(shell) else hu)),
    )


def statistics_table(pairs: Sequence[Sequence[LesionNumbers]]) -> list[Row]:
    """Summarises the lesions of many pairs."""
    lesions = [lesion for pair in pairs for lesion in pair]
    return [
        Row(quantity="pairs", drawn=str(len(pairs)), published="300", source=_CHALLENGE),
        Row(quantity="lesions", drawn=str(len(lesions)), published="4,530", source=_CHALLENGE),
        Row(
            quantity="pairs without any lesion",
            drawn=_percent([not pair for pair in pairs]),
            published="33 %",
            source=_SYNTHETIC_LIVERS,
        ),
        *(
            Row(
                quantity=f"lesions: {fate}",
                drawn=_percent([lesion.fate == fate for lesion in lesions]),
                published=_FATE_SHARES[fate],
                source=_CHALLENGE,
            )
            for fate in FATES
        ),
        *_rows_of_scan("baseline", [[one.baseline for one in pair if one.baseline is not None] for pair in pairs]),
        *_rows_of_scan("followup", [[one.followup for one in pair if one.followup is not None] for pair in pairs]),
        _contrasts(lesions),
        *_click_rows(lesions),
    ]


def as_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    cells = [(row.quantity, row.drawn, row.published, row.source) for row in rows]
    return "\n".join([*markdown_table(["quantity", "drawn", "published", "published for"], cells), ""])


def as_json(rows: Sequence[Row], pairs: Sequence[Sequence[LesionNumbers]]) -> str:
    """The table, and the lesions behind it by pair."""
    lesions = [[asdict(lesion) for lesion in pair] for pair in pairs]
    return json.dumps({"table": [asdict(row) for row in rows], "pairs": lesions}, indent=1) + "\n"


def _outlines(lesions: LesionMap) -> dict[int, Outline]:
    regions = lesion_regions(lesions.ids)
    return {lesion_id: Outline.of(lesions, [lesion_id], [region]) for lesion_id, region in regions.items()}


def _rows_of_scan(scan: str, pairs: Sequence[Sequence[Measured]]) -> Iterator[Row]:
    name = "follow-up" if scan == "followup" else scan
    lesions = [lesion for pair in pairs for lesion in pair]
    for quantity, values, published in (
        ("lesions of a pair", [float(len(pair)) for pair in pairs], _PER_PAIR),
        ("largest axial diameter, mm", [lesion.diameter_mm for lesion in lesions], _DIAMETERS),
        ("volume, ml", [lesion.volume_ml for lesion in lesions], _VOLUMES),
    ):
        drawn = f"{np.mean(values):.2f} ({min(values):.3g}-{max(values):.3g})" if values else "-"
        yield Row(
            quantity=f"{quantity}, {name}: mean (range)", drawn=drawn, published=published[scan], source=_REAL_LIVERS
        )


def _contrasts(lesions: Sequence[LesionNumbers]) -> Row:
    contrasts = [
        abs(one.followup.contrast_hu)
        for one in lesions
        if one.followup is not None and one.lesion_type not in _NOT_SOFT
    ]
    return Row(
        quantity="contrast in soft tissue, follow-up, HU of either sign: median (p10-p90)",
        drawn="{1:.0f} ({0:.0f}-{2:.0f})".format(*np.quantile(contrasts, [0.1, 0.5, 0.9])) if contrasts else "-",
        published="range 30-80",
        source=_SYNTHETIC_LIVERS,
    )


def _click_rows(lesions: Sequence[LesionNumbers]) -> Iterator[Row]:
    """Clicks on lesions that persist, since those are propagated from the baseline."""
    errors_mm = _click_errors_mm(lesions)
    voxels, sizes_mm = (np.linalg.norm(errors_mm / step, axis=1) for step in (CHALLENGE_VOXEL_XYZ_MM, 1.0))
    for share, published in _CLICK_VOXELS.items():
        name = "median" if share == 0.5 else f"p{share * 100:.0f}"
        drawn = f"{np.quantile(voxels, share):.1f}" if len(voxels) else "-"
        quantity = f"click error, voxels of 0.775 x 0.775 x 3 mm: {name}"
        yield Row(quantity=quantity, drawn=drawn, published=published, source=_CLICKS)
    drawn = "{:.1f} / {:.1f}".format(*np.quantile(sizes_mm, [0.5, 0.9])) if len(sizes_mm) else "-"
    yield Row(quantity="click error, mm: median / p90", drawn=drawn)


def _click_errors_mm(lesions: Sequence[LesionNumbers]) -> Float[np.ndarray, "n 3"]:
    errors = [one.click_error_xyz_mm for one in lesions if one.fate == "persists" and one.click_error_xyz_mm]
    return np.array(errors, float).reshape(-1, 3)


def _percent(hits: Sequence[bool]) -> str:
    return f"{100 * np.mean(hits):.1f} %" if hits else "-"
