"""Exams of an organ, from their preparation to the training samples of a detector."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.config import VoiSettings
from longilesion.errors import InputError
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam as read_truth
from longilesion.geometry import Grid, box_slices
from longilesion.registered import sample_registered
from longilesion.registration.register import register_scans
from longilesion.sliding import region_of
from longilesion.voi import Voi, VoiPair
from test.unit.tiny_exams import LIVER_RADIUS_MM, SETTINGS, tiny_exams, write_livers
from training.exam_cache import build_exam_cache
from training.exam_dataset import window_start
from training.exams import DamagedExamError, read_exam, registered_exam, write_exam
from training.mask_errors import with_mask_errors
from training.preparation.prepared import read_prepared_exam
from training.preparation.synthetic import find_synthetic
from training.recipe import MaskErrorSettings

VOI = VoiSettings(shape_zyx=(16, 32, 32), spacing_zyx_mm=(4.0, 3.0, 3.0))


def test_exams_show_lesions_in_the_organ_alone_and_some_are_healthy() -> None:
    data = tiny_exams()
    counts = []
    for case in data.cases:
        exam = read_prepared_exam(case)
        truth = read_truth(find_exams(case.folder)[0])[0].truth["primary"].ids > 0
        baseline, followup = exam.baselines["primary"], exam.followups["primary"]
        before = np.zeros_like(baseline.scan.hu) if baseline.lesions is None else baseline.lesions.ids
        for scan, lesions in ((followup, truth), (baseline.scan, before > 0)):
            assert scan.organ is not None
            # A border of a voxel may lie outside; the rest of a lesion is in the liver.
            assert (lesions & ~scan.organ).sum() <= 0.1 * lesions.sum()
            volume_ml = scan.organ.sum() * scan.grid.voxel_volume_ml
            assert volume_ml == pytest.approx(4 / 3 * np.pi * (LIVER_RADIUS_MM / 10) ** 3, rel=0.06)
        counts.append(len(json.loads((case.folder / "truth" / "lesions.json").read_text())))
    assert 0 in counts
    assert max(counts) == 2


def test_folds_hold_a_volume_on_one_side_only() -> None:
    data = tiny_exams()
    for fold in (0, 1):
        seen, held_out = data.split(fold)
        assert len({case.patient for case in seen}) == len({case.patient for case in held_out}) == 1


def test_volumes_without_the_organ_are_no_exams(tmp_path: Path) -> None:
    folder = write_livers(tmp_path, 2)
    shutil.rmtree(folder / "volume_1" / "organs")
    source = find_synthetic(folder, cases=2, phantoms=1, seed=0, settings=SETTINGS, whole=True, organ="liver")
    assert {job.patient for job in source.jobs} == {"volume_0"}
    with pytest.raises(InputError, match=r"organs/spleen\.nii\.gz"):
        find_synthetic(folder, cases=2, phantoms=1, seed=0, settings=SETTINGS, whole=True, organ="spleen")


def test_exam_is_what_inference_samples_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one registration: repeated, in another process, its last bits depend on the order in which threads end."""
    case = next(case for case in tiny_exams().cases if "{}" not in (case.folder / "truth" / "lesions.json").read_text())
    scans = read_prepared_exam(case)
    followup, prior = scans.followups["primary"], scans.baselines["primary"]
    assert followup.organ is not None
    region = region_of(*followup.grid.lps_view(followup.organ), VOI)
    assert region is not None
    registration = register_scans(prior.scan, followup)
    whole = sample_registered(followup, prior, registration, region.grid)
    monkeypatch.setattr("training.exams.register_scans", lambda baseline, followup: registration)
    truth, _ = read_truth(find_exams(case.folder)[0])
    write_exam(tmp_path / "exam.npz", registered_exam(scans, truth.truth["primary"], VOI), made_of="this")
    exam = read_exam(tmp_path / "exam.npz")
    np.testing.assert_array_equal(exam.region.mask, region.mask)
    for found, expected in ((exam.pair.followup, whole.followup), (exam.pair.baseline, whole.baseline)):
        assert found is not None
        assert expected is not None
        np.testing.assert_array_equal(found.hu, expected.hu)
        np.testing.assert_array_equal(found.organ, expected.organ)
        assert found.is_clicked is False
    np.testing.assert_array_equal(exam.pair.baseline_mask, whole.baseline_mask)
    # Inference samples window by window; only the interpolation of the mapping differs.
    box = box_slices((1, 2, 0), np.add((1, 2, 0), VOI.shape_zyx))
    lattice = region.grid.window((1, 2, 0), (17, 34, 32))
    alone, part = sample_registered(followup, prior, registration, lattice), exam.window(box)
    assert part.followup.grid.matches(lattice)
    np.testing.assert_allclose(part.followup.hu, alone.followup.hu, atol=0.1)
    assert part.baseline is not None
    assert alone.baseline is not None
    assert np.abs(part.baseline.hu - alone.baseline.hu).mean() < 2


def test_exam_is_registered_once() -> None:
    data = tiny_exams()
    (first,) = build_exam_cache(data, data.cases[:1], VOI, workers=1)
    before = first.path.stat().st_mtime_ns
    build_exam_cache(data, data.cases[:1], VOI, workers=1)
    assert first.path.stat().st_mtime_ns == before


def test_damaged_exam_is_told(tmp_path: Path) -> None:
    path = tmp_path / "exam.npz"
    path.write_bytes(b"PK")
    with pytest.raises(DamagedExamError, match=r"exam\.npz.*delete it"):
        read_exam(path)


def test_exam_without_organ_is_refused() -> None:
    case = tiny_exams().cases[0]
    scans = read_prepared_exam(case)
    bare = replace(scans, followups={"primary": replace(scans.followups["primary"], organ=None)})
    truth = read_truth(find_exams(case.folder)[0])[0].truth["primary"]
    with pytest.raises(InputError, match="organ mask"):
        registered_exam(bare, truth, VOI)


@given(
    shape=st.tuples(*[st.integers(3, 12)] * 3),
    room=st.tuples(*[st.integers(0, 9)] * 3),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 1.0]),
)
def test_windows_lie_in_the_lattice_and_show_a_lesions_centre(
    shape: tuple[int, int, int], room: tuple[int, int, int], seed: int, share: float
) -> None:
    generator = np.random.default_rng(seed)
    ids = np.zeros(np.add(shape, room), np.uint16)
    place = tuple(generator.integers(0, ids.shape).tolist())
    ids[place] = 3
    start = window_start(ids, shape, generator, lesion_share=share)
    assert all(0 <= first <= spare for first, spare in zip(start, room, strict=True))
    if share:
        assert ids[box_slices(start, np.add(start, shape))].any()


def searched(mask: np.ndarray, organ: np.ndarray) -> VoiPair:
    """A window of a search whose baseline has those lesions."""
    grid = Grid.from_spacing(mask.shape, (3.0, 3.0, 3.0))
    voi = Voi(hu=np.zeros(mask.shape, np.float32), grid=grid, click_zyx=(0, 0, 0), is_clicked=False, organ=organ)
    return VoiPair(followup=voi, baseline=voi, baseline_mask=mask, baseline_others=np.zeros_like(mask))


def test_each_lesion_of_a_search_may_be_missing_on_its_own() -> None:
    mask = np.zeros((24, 24, 24), np.float32)
    for place in np.ndindex(3, 3, 3):
        corner = 2 + 8 * np.array(place)
        mask[box_slices(corner, corner + 3)] = 1
    pair = searched(mask, np.ones_like(mask))
    kept = with_mask_errors(pair, MaskErrorSettings(missing_share=0.5), np.random.default_rng(0)).baseline_mask
    assert kept is not None
    lesions = kept[2::8, 2::8, 2::8].ravel()
    assert 5 < lesions.sum() < 22
    assert kept.sum() == 27 * lesions.sum()
    gone = with_mask_errors(pair, MaskErrorSettings(missing_share=1.0), np.random.default_rng(0)).baseline_mask
    assert gone is not None
    assert not gone.any()


def test_false_lesions_of_a_search_are_in_the_mask_and_centred_in_the_organ() -> None:
    mask, organ = np.zeros((30, 30, 30), np.float32), np.zeros((30, 30, 30), np.float32)
    organ[10:14, 10:14, 10:14] = 1
    settings = MaskErrorSettings(spurious_share=1.0, spurious_lesions=3)
    for seed in range(5):
        found = with_mask_errors(searched(mask, organ), settings, np.random.default_rng(seed))
        assert found.baseline_mask is not None
        assert found.baseline_others is not None
        assert not found.baseline_others.any()
        assert (found.baseline_mask > 0.5).any()
        middle = np.argwhere(found.baseline_mask > 0.5).mean(axis=0)
        assert ((middle > 4) & (middle < 20)).all()
