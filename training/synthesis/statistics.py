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
from longilesion.evaluation.measures import Outline, largest_axial_diameter_mm
from longilesion.geometry import Triple, box_slices, triple
from longilesion.markdown import markdown_table
from training.synthesis.clicks import CHALLENGE_VOXEL_ZYX_MM, CLICK_ERROR_VOXELS, MEDIAN_ERROR_VOXELS
from training.synthesis.pairs import SyntheticPair

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
_VOXELS = "voxels of 0.775 x 0.775 x 3 mm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A lesion's outline in one scan; the contrast is its mean HU less the median of a shell of 5 mm around it."""

    volume_ml: float
    diameter_mm: float
    contrast_hu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionNumbers:
    """Measurements of one lesion of a pair; None where it is not outlined in a scan.

    The error is that of the propagated click: in the baseline of a new lesion, else in the follow-up.
    """

    lesion_id: int
    fate: Fate
    lesion_type: str
    baseline: Measured | None
    followup: Measured | None
    click_error_xyz_mm: Triple


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
    errors = _click_errors(pair)
    numbers = []
    for lesion_id, fact in pair.facts.items():
        old = before.get(lesion_id)
        now = after.get(lesion_id) if fact.true_id == lesion_id else None
        numbers.append(
            LesionNumbers(
                lesion_id=lesion_id,
                fate=fact.fate,
                lesion_type=fact.lesion_type,
                baseline=None if old is None or prior.lesions is None else measured(old, prior.scan, prior.lesions),
                followup=None if now is None else measured(now, scan, pair.truth),
                click_error_xyz_mm=errors[lesion_id],
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


def _click_errors(pair: SyntheticPair) -> dict[int, Triple]:
    """The errors of the propagated clicks, by lesion id."""
    errors: dict[int, Triple] = {}
    for given, exact in zip(pair.case.clicks, pair.exact_clicks, strict=True):
        is_new = pair.facts[given.lesion_id].fate == "new"
        click, place = (given.baseline, exact.baseline) if is_new else (given.followup, exact.followup)
        if click is not None and place is not None:
            errors[given.lesion_id] = triple(np.subtract(click.point_xyz_mm, place.point_xyz_mm))
    return errors


def _click_rows(lesions: Sequence[LesionNumbers]) -> Iterator[Row]:
    """The errors of the clicks propagated forwards, of those of the types with a published median, and backwards."""
    forwards = [lesion for lesion in lesions if lesion.fate != "new"]
    for share, published in CLICK_ERROR_VOXELS.items():
        name = "median" if share == 0.5 else f"p{share * 100:.0f}"
        yield Row(
            quantity=f"click error, {_VOXELS}: {name}",
            drawn=_quantiles(_error_voxels(forwards), share),
            published=f"{published:.1f}",
            source=_CLICKS,
        )
    for lesion_type, median in MEDIAN_ERROR_VOXELS.items():
        of_type = [lesion for lesion in forwards if lesion.lesion_type == lesion_type]
        yield Row(
            quantity=f"click error, {_VOXELS}, {lesion_type}: median",
            drawn=_quantiles(_error_voxels(of_type), 0.5),
            published=f"{median:.1f}",
            source=_CLICKS,
        )
    backwards = [lesion for lesion in lesions if lesion.fate == "new"]
    yield Row(
        quantity=f"click error in the baseline, {_VOXELS}, new lesions: median / p90",
        drawn=_quantiles(_error_voxels(backwards), 0.5, 0.9),
    )
    yield Row(
        quantity="click error, mm: median / p90", drawn=_quantiles(_error_voxels(forwards, voxel_zyx_mm=1.0), 0.5, 0.9)
    )


def _error_voxels(
    lesions: Sequence[LesionNumbers], voxel_zyx_mm: Triple | float = CHALLENGE_VOXEL_ZYX_MM
) -> Float[np.ndarray, " n"]:
    errors_zyx_mm = np.array([lesion.click_error_xyz_mm[::-1] for lesion in lesions], float).reshape(-1, 3)
    return np.asarray(np.linalg.norm(errors_zyx_mm / voxel_zyx_mm, axis=1))


def _quantiles(values: Float[np.ndarray, " n"], *shares: float) -> str:
    return " / ".join(f"{number:.1f}" for number in np.quantile(values, shares)) if len(values) else "-"


def _percent(hits: Sequence[bool]) -> str:
    return f"{100 * np.mean(hits):.1f} %" if hits else "-"
