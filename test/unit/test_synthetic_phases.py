from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longilesion.diagnosis_settings import LESION_TYPES, PHASES
from longilesion.errors import InputError
from test.unit.liver_hosts import FAT_HU, LIVER_HU, small_host, small_source
from training.synthesis.exam_settings import ExamSettings, MissingShares
from training.synthesis.kinetics import drawn_levels
from training.synthesis.lesion_kinds import KINDS
from training.synthesis.lesion_painting import part_hu, placed_lesion
from training.synthesis.liver_host import liver_host
from training.synthesis.liver_lesions import drawn_lesions, planned_lesions
from training.synthesis.phases import drawn_phases, enhanced_host, phase_hu, synthetic_exam

seeds = st.integers(0, 2**32)
few = settings(max_examples=4, deadline=None)
SICK = ExamSettings(healthy_share=0.0)


def lesions(seed, **changes):
    drawn = drawn_lesions(small_host().source, np.random.default_rng(seed), ExamSettings(healthy_share=0.0, **changes))
    return [placed_lesion(lesion, small_host()) for lesion in drawn]


def plain(lesion):
    """The lesion without its texture, its uneven borders, and the liver's structure in it."""
    parts = tuple(replace(part, field=np.zeros_like(part.field)) for part in lesion.parts)
    return replace(
        lesion,
        kind=replace(lesion.kind, kept_structure=0.0),
        parts=parts,
        texture_hu=np.zeros_like(lesion.texture_hu),
    )


@few
@given(seed=seeds, lesion_type=st.sampled_from(LESION_TYPES))
def test_the_hu_of_a_lesion_are_between_those_of_its_parts(seed, lesion_type):
    host, levels = small_host(), drawn_levels(np.random.default_rng(seed))
    for placed in lesions(seed, types=(lesion_type,), second_share=0.0):
        placed = placed_lesion(plain(placed.lesion), host)
        for phase in PHASES:
            hu = phase_hu(host, [placed], phase, levels)[placed.window][placed.mask & (placed.share > 0.999)]
            limits = [part_hu(part, phase, levels) for part in placed.lesion.parts]
            if len(hu):
                assert min(limits) - 1 <= hu.min()
                assert hu.max() <= max(limits) + 1


@few
@given(seed=seeds)
def test_what_is_no_lesion_is_the_enhanced_tissue(seed):
    host, levels = small_host(), drawn_levels(np.random.default_rng(seed))
    drawn = lesions(seed)
    untouched = np.ones(host.hu.shape, bool)
    for placed in drawn:
        untouched[placed.window] &= placed.share < 1e-4
    for phase in PHASES:
        without = enhanced_host(host, phase, levels)
        np.testing.assert_allclose(phase_hu(host, drawn, phase, levels)[untouched], without[untouched], atol=0.1)
        # Fat stays, and the liver has the phase's level.
        assert np.median(without[host.hu < -90]) == pytest.approx(FAT_HU, abs=2)
        assert np.median(without[host.liver]) == pytest.approx(levels["liver"][phase], abs=3)


def test_vessels_of_the_liver_have_the_level_of_the_veins():
    host, levels = small_host(), drawn_levels(np.random.default_rng(0))
    inside = host.liver & (host.hu > host.levels["vein"] - 4)
    for phase in PHASES:
        assert np.median(enhanced_host(host, phase, levels)[inside]) == pytest.approx(levels["vein"][phase], abs=6)


def test_hcc_washes_out_and_haemangioma_fills_in():
    host = small_host()
    typical = {
        "hcc": next(kind for kind in KINDS if kind.name == "typical, without capsule"),
        "haemangioma": next(kind for kind in KINDS if kind.name == "cavernous"),
    }
    contrasts = {lesion_type: {phase: [] for phase in PHASES} for lesion_type in typical}
    for seed in range(5):
        levels = drawn_levels(np.random.default_rng(seed))
        for lesion_type, kind in typical.items():
            for placed in lesions(seed, types=(lesion_type,), second_share=0.0):
                if placed.lesion.kind is not kind:
                    continue
                for phase in PHASES:
                    hu = phase_hu(host, [placed], phase, levels)[placed.window][placed.mask].mean()
                    contrasts[lesion_type][phase].append(hu - levels["liver"][phase])
    means = {each: {phase: np.mean(values) for phase, values in found.items()} for each, found in contrasts.items()}
    assert means["hcc"]["arterial"] > 10 > -2 > means["hcc"]["delayed"]
    assert means["haemangioma"]["non_contrast"] < 0 < means["haemangioma"]["delayed"]


@few
@given(seed=seeds)
def test_lesions_lie_in_the_liver_apart_from_each_other_and_have_the_truths_ids(seed):
    exam = synthetic_exam(small_host(), np.random.default_rng(seed), SICK)
    ids = exam.truth.ids
    assert set(np.unique(ids).tolist()) - {0} == set(exam.lesions)
    assert exam.phases["venous"].organ[ids > 0].all()
    assert len(exam.lesions) <= SICK.most_lesions
    for phase, scan in exam.phases.items():
        assert scan.hu.shape == ids.shape, phase
        assert (scan.organ is None) == (phase != "venous")


def test_an_exam_follows_from_its_generator():
    first, again, other = (synthetic_exam(small_host(), np.random.default_rng(seed), SICK) for seed in (3, 3, 4))
    assert list(first.phases) == list(again.phases)
    for phase, scan in first.phases.items():
        np.testing.assert_array_equal(scan.hu, again.phases[phase].hu)
    np.testing.assert_array_equal(first.truth.ids, again.truth.ids)
    assert not np.array_equal(first.phases["venous"].hu, other.phases["venous"].hu)


def test_a_third_of_the_exams_has_no_delayed_phase_and_all_have_a_venous_one():
    generator = np.random.default_rng(0)
    drawn = [drawn_phases(generator, ExamSettings()) for _ in range(600)]
    assert np.mean(["delayed" not in phases for phases in drawn]) == pytest.approx(1 / 3, abs=0.06)
    assert all("venous" in phases and "arterial" in phases for phases in drawn)
    missing = ExamSettings(missing=MissingShares(non_contrast=1.0, arterial=1.0, delayed=1.0))
    assert drawn_phases(generator, missing) == ("venous",)


def test_some_patients_have_no_lesion_and_types_are_alike():
    generator = np.random.default_rng(0)
    patients = [planned_lesions(generator, ExamSettings(healthy_share=0.3, second_share=0.2)) for _ in range(1500)]
    sick = [patient for patient in patients if patient]
    assert len(sick) / len(patients) == pytest.approx(0.7, abs=0.04)
    assert max(map(len, sick)) == 6
    kinds = [{lesion_type for lesion_type, _ in patient} for patient in sick]
    assert np.mean([len(each) == 2 for each in kinds]) == pytest.approx(0.2, abs=0.05)
    for lesion_type in LESION_TYPES:
        assert np.mean([patient[0][0] == lesion_type for patient in sick]) == pytest.approx(1 / 8, abs=0.04)


def test_phases_are_moved_against_the_venous_one():
    still = ExamSettings(healthy_share=1.0, noise_hu=(0.0, 0.0))
    exam = synthetic_exam(small_host(), np.random.default_rng(1), still)
    middle = {phase: np.argwhere(scan.hu > 20).mean(axis=0) for phase, scan in exam.phases.items()}
    ways = [np.linalg.norm((middle[phase] - middle["venous"]) * (5, 4, 4)) for phase in middle if phase != "venous"]
    assert all(0.05 < way < 12 for way in ways)


def test_without_contrast_medium_vessels_are_drawn_into_the_liver():
    host = liver_host(small_source(liver_hu=50))
    assert host.levels["liver"] == pytest.approx(50, abs=3)
    assert 0.005 < host.shares["vein"][host.liver].mean() < 0.4
    # Nothing is drawn where vessels can be seen.
    assert np.abs(small_host().hu[small_host().liver] - LIVER_HU).mean() < 8


def test_a_liver_is_needed():
    with pytest.raises(InputError, match=r"small: no mask of the liver; expected organs/liver\.nii\.gz"):
        liver_host(replace(small_source(), organs={}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spacing_zyx_mm": (0.0, 1.0, 1.0)}, "positive spacing"),
        ({"types": ("cyst", "cyst")}, "names one twice"),
        ({"noise_hu": (9.0, 5.0)}, "noise_hu: expected a range"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        ExamSettings.model_validate(values)
