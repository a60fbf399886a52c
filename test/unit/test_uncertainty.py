"""The uncertainty of measures: the band of an outline, the intervals, and where they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil, exp, log
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from pydicom.dataset import Dataset
from rich.console import Console

from longilesion.assessment import case_response, measured_lesions
from longilesion.bundle import Member, read_manifest, save_bundle, save_members
from longilesion.case import LesionPrediction
from longilesion.cli.lesion_table import lesion_table
from longilesion.config import InferenceSettings, MeasurementErrors
from longilesion.course import CourseRecord, LesionRecord, TimePointRecord, course_of
from longilesion.dicom.output import REPORT, Findings
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.labelling import label_lesions
from longilesion.networks import build_network
from longilesion.pipeline import segment_case
from longilesion.report import make_report
from longilesion.response import Lesion, Visit, assess
from longilesion.uncertainty import Band, Uncertainty, uncertainty_of, volume_interval_ml
from test.dicom_results import write_results
from test.dicom_series import write_series
from test.unit.builders import model_settings, prompt
from test.unit.synthetic import pair
from test.unit.test_assessment import segmented
from test.unit.test_dicom_output import MEASURED, outlined, scan
from training.measurement_errors import Arguments, Judged, coverage_table, determine, errors_of, judged_lesions

GRID = Grid.from_spacing((20, 30, 30), (1.0, 1.0, 1.0))
CENTRE = (10.0, 15.0, 15.0)
ERRORS = MeasurementErrors(volume_scale=2.0, volume_offset=0.1, diameter_scale=0.5, diameter_offset_mm=4.0)


def distances() -> NDArray[np.float64]:
    z, y, x = (np.arange(count) - at for count, at in zip(GRID.shape_zyx, CENTRE, strict=True))
    return np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)


def ball_of(radius: float) -> NDArray[np.bool_]:
    return distances() <= radius


def predicted(
    probability: NDArray, deviation: NDArray | None, *, lesion_id: int = 1, at: tuple[float, ...] = CENTRE
) -> LesionPrediction:
    return LesionPrediction(
        prompt=prompt(lesion_id, GRID.world_xyz_mm(at)),
        probability=probability.astype(np.float32),
        presence=0.9,
        grid=GRID,
        deviation=None if deviation is None else deviation.astype(np.float32),
    )


def steps(narrow: float, own: float, wide: float) -> LesionPrediction:
    """A ball that two deviations make smaller or larger: to the radii `narrow` and `wide`."""
    probability = np.select([ball_of(narrow), ball_of(own), ball_of(wide)], [0.9, 0.6, 0.4], 0.0)
    return predicted(probability, np.full(GRID.shape_zyx, 0.1))


@given(radii=st.lists(st.floats(1.5, 8.0), min_size=3, max_size=3))
def test_band_is_that_of_the_outlines_two_deviations_away(radii: list[float]) -> None:
    narrow, own, wide = sorted(radii)
    result = label_lesions([steps(narrow, own, wide)], GRID, InferenceSettings())
    assert result.volumes_ml[1] == pytest.approx(ball_of(own).sum() / 1000)
    band = result.bands[1]
    # A ball's voxels at two radii, counted apart from the product's code.
    assert band.narrow_ml == pytest.approx(max(ball_of(narrow).sum() / 1000, 0.02 * ball_of(own).sum() / 1000))
    assert band.wide_ml == pytest.approx(ball_of(wide).sum() / 1000)
    assert band.narrow_mm <= band.wide_mm
    # From contour to contour: a voxel more than twice the whole part of the radius.
    assert band.wide_mm == pytest.approx(2 * wide, abs=1.6)


def test_networks_that_agree_leave_no_band_and_those_that_find_nothing_the_widest() -> None:
    ball = np.where(ball_of(5), 0.9, 0.0)
    (agreed,) = label_lesions([predicted(ball, np.zeros(GRID.shape_zyx))], GRID, InferenceSettings()).bands.values()
    assert (agreed.log_volume, agreed.diameter_mm) == (0, 0)
    (split,) = label_lesions([predicted(ball, np.where(ball_of(5), 0.3, 0))], GRID, InferenceSettings()).bands.values()
    assert split.log_volume == pytest.approx(log(50))
    assert split.narrow_mm == 0
    unknown = label_lesions([predicted(ball, None)], GRID, InferenceSettings())
    assert not unknown.bands
    assert unknown.volumes_ml


def test_a_nearer_component_of_the_wide_outline_does_not_make_it_smaller() -> None:
    # Of the wide outline's parts the small one is nearer to the click; the outline itself is the other.
    probability = np.where(ball_of(5), 0.9, 0.0)
    probability[10, 15, 23] = 0.45
    found = label_lesions(
        [predicted(probability, np.full(GRID.shape_zyx, 0.05), at=(10.0, 15.0, 24.0))], GRID, InferenceSettings()
    )
    band = found.bands[1]
    assert band.narrow_ml <= found.volumes_ml[1] <= band.wide_ml


def test_lesion_without_an_outline_has_no_band_and_merged_ones_have_one() -> None:
    ball, deviation = np.where(ball_of(5), 0.9, 0.0), np.full(GRID.shape_zyx, 0.1)
    same = [predicted(ball, deviation, lesion_id=1), predicted(ball, deviation, lesion_id=2, at=(10.0, 15.0, 17.0))]
    gone = replace(predicted(ball, deviation, lesion_id=3), presence=0.1)
    result = label_lesions([*same, gone], GRID, InferenceSettings())
    assert result.merged_into == {2: 1}
    assert set(result.bands) == {1}


@given(
    scales=st.tuples(st.floats(0.1, 5), st.floats(0, 2), st.floats(0.1, 3), st.floats(0, 9)),
    volumes=st.tuples(st.floats(0.01, 10), st.floats(1, 20)),
    lengths=st.tuples(st.floats(0, 50), st.floats(0, 20)),
)
def test_intervals_follow_from_band_and_errors(
    scales: tuple[float, ...], volumes: tuple[float, float], lengths: tuple[float, float]
) -> None:
    a, b, c, d = scales
    errors = MeasurementErrors(volume_scale=a, volume_offset=b, diameter_scale=c, diameter_offset_mm=d)
    (narrow_ml, ratio), (narrow_mm, more) = volumes, lengths
    band = Band(narrow_ml=narrow_ml, wide_ml=narrow_ml * ratio, narrow_mm=narrow_mm, wide_mm=narrow_mm + more)
    found = uncertainty_of(band, errors)
    assert found.volume_factor == pytest.approx(exp(a * (log(ratio) + b)))
    assert found.diameter_mm == pytest.approx(c * (more + d))
    low, high = volume_interval_ml(3.0, found.volume_factor)
    assert low <= 3.0 <= high
    assert low * high == pytest.approx(9.0)


# -------------------------------------------------------------------------------------------------- where it is shown


def test_response_that_would_flip_within_the_interval_says_so() -> None:
    # 24 and 29 mm: +21 % and 5 mm, hardly a progression.
    case, plain = segmented({1: 6.0, 2: 6.0}, {1: 8.5, 2: 6.0})
    certain = case_response(case, plain)
    assert certain.assessment is not None
    assert certain.assessment.could_be == ()
    known = Uncertainty(volume_factor=1.5, diameter_mm=3.0)
    unsure = replace(plain, lesions=tuple(replace(each, uncertainty=known) for each in plain.lesions))
    response = case_response(case, unsure)
    assert response.followup is not None
    assert (response.followup[1].error_mm, response.followup[1].volume_factor) == (3.0, 1.5)
    assert response.assessment is not None
    # Independent errors of two targets.
    assert response.assessment.sum.error_mm == pytest.approx(18**0.5)
    assert response.assessment.targets == certain.assessment.targets
    assert response.assessment.could_be == (({"PD", "SD"} - {response.assessment.targets}).pop(),)
    report = make_report(case, unsure, seconds={})
    assert report.response is not None
    assert report.response.could_be == list(response.assessment.could_be)
    assert report.response.sum_error_mm == pytest.approx(4.24)
    lesion = report.lesions[0]
    assert lesion.diameter_error_mm == 3.0
    assert (lesion.volume_low_ml, lesion.volume_high_ml) == (pytest.approx(2 / 3, abs=1e-6), 1.5)
    without = make_report(case, plain, seconds={}).lesions[0]
    assert (without.diameter_error_mm, without.volume_low_ml, without.volume_high_ml) == (None, None, None)


def test_table_has_the_interval_where_the_models_errors_are_known() -> None:
    _, plain = segmented({1: 6.0}, {1: 8.5})
    known = Uncertainty(volume_factor=2.5, diameter_mm=3.0)
    printed = {}
    for name, lesions in (
        ("plain", plain.lesions),
        ("unsure", tuple(replace(each, uncertainty=known) for each in plain.lesions)),
    ):
        console = Console(width=140)
        with console.capture() as text:
            console.print(lesion_table(lesions))
        printed[name] = text.get()
    assert "95 %" not in printed["plain"]
    assert "95 %" in printed["unsure"]
    assert "0.4 to 2.5" in printed["unsure"]


def test_course_carries_the_intervals_into_the_response() -> None:
    plain = LesionRecord(id=1, volume_ml=2.0, longest_mm=20.0, short_mm=15.0)
    unsure = plain.model_copy(update={"error_mm": 4.0, "volume_low_ml": 1.0, "volume_high_ml": 4.0})
    assert (plain.measured.error_mm, plain.measured.volume_factor) == (0.0, 1.0)
    assert (unsure.measured.error_mm, unsure.measured.volume_factor) == (4.0, 2.0)
    now = unsure.model_copy(update={"longest_mm": 25.5, "volume_ml": 4.0, "volume_high_ml": 8.0})
    records = [
        TimePointRecord(number=number, scan=f"{number}.nii.gz", fingerprint="", slice_mm=1.0, lesions=[lesion])
        for number, lesion in enumerate((plain, now), start=1)
    ]
    record, course = course_of(records)
    assert course is not None
    (response,) = record.responses
    assert (response.targets, response.could_be, response.error_mm) == ("PD", ["SD"], 4.0)
    text = CourseRecord.model_validate_json(record.model_dump_json())
    assert text == record


def test_structured_report_has_the_ends_of_the_intervals(tmp_path: Path) -> None:
    write_series(tmp_path / "followup", scan(1))
    measured = replace(MEASURED[3], error_mm=2.5, volume_factor=1.6)
    before = Visit(measured={3: MEASURED[7]})
    course = assess([Lesion(lesion_id=3)], (before, Visit(measured={3: measured})))
    write_results(
        tmp_path / "out",
        outlined(tmp_path / "followup", (3,)),
        Findings(measured={3: measured}, lesion_ids=[3], course=course),
    )
    dataset = hd.sr.srread(tmp_path / "out" / REPORT)
    # Read by pydicom alone: each measure, and what its properties say (TID 310).
    found: dict[str, dict[str, float]] = {}
    for item in walked(dataset):
        if item.ValueType == "NUM" and "ContentSequence" in item:
            found[item.ConceptNameCodeSequence[0].CodeMeaning] = {
                part.ConceptNameCodeSequence[0].CodeMeaning: float(part.MeasuredValueSequence[0].NumericValue)
                for part in item.ContentSequence
                if part.ValueType == "NUM"
            }
    upper, lower = "+, range of upper measurement uncertainty", "-, range of lower measurement uncertainty"
    assert found["Long axis"] == {upper: 2.5, lower: 2.5}
    assert found["Volume"] == {upper: pytest.approx(0.5926), lower: pytest.approx(0.3704)}
    assert found["Sum of diameters of target lesions, follow-up"] == {upper: 2.5, lower: 2.5}
    assert "Sum of diameters of target lesions, baseline" not in found


def walked(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from walked(item)


def test_bundle_keeps_its_errors_and_new_thresholds_are_without_them(tmp_path: Path) -> None:
    settings = model_settings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0))
    member = Member(settings=settings, networks=(build_network(settings),))
    save_members(tmp_path, [member], settings.inference.thresholds, provenance={}, errors=ERRORS)
    assert read_manifest(tmp_path).errors == ERRORS
    ensemble = load_ensemble(tmp_path, device="cpu")
    assert ensemble.errors == ERRORS
    save_members(tmp_path, ensemble.members, ensemble.thresholds, provenance={})
    assert load_ensemble(tmp_path, device="cpu").errors is None


@pytest.mark.parametrize("wrong", [{"volume_scale": 0}, {"diameter_offset_mm": -1}, {"volume_offset": "nan"}])
def test_errors_that_are_none_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MeasurementErrors.model_validate(ERRORS.model_dump() | wrong)


# ---------------------------------------------------------------------------------------------------- determining them


def judged_of(seed: int, count: int, *, spread: float = 0.3) -> list[Judged]:
    """Lesions whose errors are normal, with a deviation that grows with the band."""
    generator = np.random.default_rng(seed)
    bands = generator.gamma(2.0, 0.5, count)
    return [
        Judged(
            volume=f"volume {number % 3}",
            band=Band(narrow_ml=1.0, wide_ml=exp(band), narrow_mm=10.0, wide_mm=10.0 + 4 * band),
            log_volume_error=float(generator.normal(0, spread * (band + 0.2))),
            error_mm=float(generator.normal(0, 4 * spread * (band + 0.2))),
        )
        for number, band in enumerate(bands)
    ]


@given(seed=st.integers(0, 10**6), count=st.integers(20, 300))
def test_intervals_hold_the_share_of_the_lesions_that_they_are_from(seed: int, count: int) -> None:
    judged = judged_of(seed, count)
    errors = errors_of(judged)
    held = [
        abs(each.log_volume_error) <= log(uncertainty_of(each.band, errors).volume_factor) * (1 + 1e-9)
        for each in judged
    ]
    assert sum(held) == min(ceil(0.95 * (count + 1)), count)


def test_intervals_hold_the_share_of_other_lesions() -> None:
    shares = []
    for seed in range(40):
        errors = errors_of(judged_of(seed, 100))
        others = judged_of(1000 + seed, 200)
        shares += [abs(each.error_mm) <= uncertainty_of(each.band, errors).diameter_mm for each in others]
    assert np.mean(shares) == pytest.approx(0.95, abs=0.02)


def test_lesions_whose_outline_moves_more_have_wider_intervals_than_by_a_constant() -> None:
    judged = judged_of(0, 300)
    errors = errors_of(judged)
    half_mm = [uncertainty_of(each.band, errors).diameter_mm for each in judged]
    constant = np.quantile([abs(each.error_mm) for each in judged], 0.95)
    assert np.mean(half_mm) < 0.95 * constant
    # The table compares both.
    rows = {row[0]: row for row in coverage_table(judged).rows}
    assert float(rows["all"][5]) < 0.95 * float(rows["all, of equal width"][5])
    assert float(rows["all, of equal width"][5]) == pytest.approx(constant, rel=0.15)


def test_coverage_is_that_on_volumes_that_the_intervals_are_not_from() -> None:
    # The errors on one volume are ten times those on the others, which the intervals cannot know.
    judged = [
        replace(each, log_volume_error=10 * each.log_volume_error) if each.volume == "volume 0" else each
        for each in judged_of(1, 300)
    ]
    rows = {row[0]: row for row in coverage_table(judged).rows}
    assert float(rows["volume 0"][2]) < 0.5
    assert float(rows["volume 1"][2]) > 0.9
    assert rows["all"][1] == "300"


def test_too_few_lesions_determine_nothing() -> None:
    with pytest.raises(InputError, match="19 lesions are outlined and there; expected at least 20"):
        errors_of(judged_of(0, 19))


def test_command_writes_the_model_with_its_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.measurement_errors.Arguments.pairs", lambda *_: [("volume/0", None)])
    monkeypatch.setattr("training.measurement_errors.judged_lesions", lambda *_: judged_of(0, 60))
    settings = model_settings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0))
    save_bundle(tmp_path / "model", settings, [build_network(settings)], provenance={"recipe": "tiny"})
    recipe = Path(__file__).parents[2] / "training" / "recipes" / "compact.toml"
    errors = determine(Arguments(model=tmp_path / "model", output=tmp_path / "out", recipe=recipe, cases=1))
    manifest = read_manifest(tmp_path / "out")
    assert manifest.errors == errors == errors_of(judged_of(0, 60))
    assert manifest.provenance["recipe"] == "tiny"
    assert manifest.provenance["measurement errors"].startswith("60 lesions of 1 synthetic pairs of volume 0, volume 1")
    one, two = ((tmp_path / name / "fold_0.safetensors").read_bytes() for name in ("model", "out"))
    assert one == two


def test_lesions_of_a_pair_are_measured_against_the_truth() -> None:
    settings = model_settings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0))
    settings = settings.model_copy(update={"inference": InferenceSettings(threshold=0.01, presence_threshold=0.0)})
    torch.manual_seed(0)
    ensemble = Ensemble.of(settings, [build_network(settings)], device=torch.device("cpu"), precision=torch.float32)
    drawn = pair(1)
    found = list(judged_lesions(drawn, ensemble, "phantom"))
    volumes = measured_lesions([drawn.truth])
    assert found
    result = segment_case(drawn.case, ensemble)
    ours = {each.prompt.lesion_id: each.volume_followup_ml for each in result.lesions if each.volume_followup_ml > 0}
    expected = sorted(log(volumes[each].volume_ml / ml) for each, ml in ours.items() if each in volumes)
    assert sorted(each.log_volume_error for each in found) == pytest.approx(expected)
