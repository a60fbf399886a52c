"""The cache of a prepared data set: what is in it, how it goes on, what becomes of damage."""

from __future__ import annotations

import ast
import importlib
import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import training.cache
import training.fingerprint
from longilesion.alignment import place_vois
from longilesion.errors import InputError
from longilesion.grand_challenge import read_case
from longilesion.prompts import complete_prompts
from longilesion.voi import sample_voi_pair
from test.unit.prepared_data import RECIPE, write_prepared
from training.cache import Cache, CachedLesion, _cut_case, build_cache
from training.cutout_file import read_cut_out
from training.parallel import worker_context
from training.preparation.prepared import PreparedCase, PreparedData, read_prepared
from training.recipe import Recipe, read_recipe
from training.samples import sample_lesion, unjittered


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return read_recipe(tmp_path / "tiny.toml")


def test_every_lesion_of_every_case_is_cut_out_once(data: PreparedData, recipe: Recipe) -> None:
    cache = build_cache(data, data.cases, recipe, workers=1)
    found = sorted((lesion.case_id, lesion.lesion_id, lesion.fate, lesion.is_seen) for lesion in cache.lesions)
    expected = [
        (case, *lesion)
        for case in ("a", "b", "c", "d", "e1", "e2")
        for lesion in ((1, "persists", True), (2, "gone", True))
    ]
    assert found == expected
    assert {lesion.patient for lesion in cache.lesions} == {"ann", "bob", "cas", "dee", "eve"}
    assert all(cache.path(lesion).is_file() for lesion in cache.lesions)


def test_cached_sample_is_the_inference_sample_of_the_case_folder_bit_for_bit(
    data: PreparedData, recipe: Recipe
) -> None:
    cache = build_cache(data, data.cases, recipe, workers=1)
    still = unjittered(recipe.jitter)
    for lesion in cache.lesions[:6]:
        sample = sample_lesion(read_cut_out(cache.path(lesion)), recipe.model, still, np.random.default_rng(0))
        folder = next(case.folder for case in data.cases if case.case_id == lesion.case_id)
        case, _ = read_case(folder / "input")
        prompt = next(prompt for prompt in complete_prompts(case).lesions if prompt.lesion_id == lesion.lesion_id)
        pair = sample_voi_pair(case, prompt, place_vois(case, prompt, recipe.model), recipe.model.voi)
        assert sample is not None
        np.testing.assert_array_equal(sample.pair.followup.hu, pair.followup.hu)
        np.testing.assert_array_equal(sample.pair.baseline.hu, pair.baseline.hu)
        np.testing.assert_array_equal(sample.pair.baseline_mask, pair.baseline_mask)
        np.testing.assert_array_equal(sample.pair.baseline_others, pair.baseline_others)


def test_interrupted_cache_goes_on_where_it_was(
    data: PreparedData, recipe: Recipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = build_cache(data, data.cases, recipe, workers=1)
    times = {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*.npz")}
    # As if the run had been killed in the middle of case c.
    (cache.folder / "c" / "lesions.json").unlink()
    (cache.folder / "c" / "2.npz").unlink()
    caplog.set_level(logging.INFO)
    again = build_cache(data, data.cases, recipe, workers=2)
    assert "cutting out the lesions of 1 cases" in caplog.text
    assert again.lesions == cache.lesions
    anew = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert {path.parent.name for path in anew} == {"c"}


def test_cut_out_that_was_deleted_is_made_again(data: PreparedData, recipe: Recipe) -> None:
    cache = build_cache(data, data.cases, recipe, workers=1)
    gone = cache.path(cache.lesions[0])
    gone.unlink()
    assert build_cache(data, data.cases, recipe, workers=1).lesions == cache.lesions
    assert read_cut_out(gone).prompt.lesion_id == cache.lesions[0].lesion_id


def test_lesions_without_a_fate_are_named_and_left_out(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_prepared(tmp_path)
    (case,) = [case for case in data.cases if case.case_id == "b"]
    (case.folder / "truth" / "lesions.json").write_text('{"7": {"fate": "new", "truth_id": 7}}')
    cache = build_cache(data, [case], recipe, workers=1)
    assert [lesion.lesion_id for lesion in cache.lesions] == [1, 2]
    assert f"{case.folder}: lesion 7 has no place or no fate; left out" in caplog.text


def test_another_lattice_has_a_cache_of_its_own(data: PreparedData, recipe: Recipe) -> None:
    wider = recipe.model_copy(update={"jitter": recipe.jitter.model_copy(update={"shift_mm": 9.0})})
    longer = recipe.model_copy(update={"steps": 99})
    first, second, third = (build_cache(data, data.cases[:1], each, workers=1) for each in (recipe, wider, longer))
    assert first.folder != second.folder
    assert first.folder == third.folder


def test_damaged_index_is_refused_in_one_line(data: PreparedData, recipe: Recipe) -> None:
    cache = build_cache(data, data.cases, recipe, workers=1)
    index = cache.folder / "d" / "lesions.json"
    whole = index.read_bytes()
    index.write_bytes(whole[:20])
    with pytest.raises(InputError, match=r"d/lesions\.json: .*; expected the index of a cached case") as caught:
        build_cache(data, data.cases, recipe, workers=1)
    assert "\n" not in str(caught.value)
    index.write_bytes(whole)


def rewrite_clicks(case: Path) -> None:
    path = case / "input" / "primary-followup-lesion-clicks.json"
    clicks = json.loads(path.read_text())
    clicks["points"][0]["point"][0] += 1.0
    path.write_text(json.dumps(clicks))


def rewrite_fates(case: Path) -> None:
    path = case / "truth" / "lesions.json"
    path.write_text(path.read_text().replace("persists", "new"))


def rewrite_voxels(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (path,) = folder.iterdir()
    image = sitk.ReadImage(path)
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, path)


def halved(ids: np.ndarray) -> np.ndarray:
    """The lesions of a map without their upper half."""
    slices = np.unique(np.nonzero(ids)[0])
    ids[slices[len(slices) // 2] :] = 0
    return ids


CHANGES: dict[str, Callable[[Path], None]] = {
    "click": rewrite_clicks,
    "fate": rewrite_fates,
    "follow-up scan": lambda case: rewrite_voxels(case / "input/images/primary-followup-ct", lambda hu: hu + 1),
    "baseline scan": lambda case: rewrite_voxels(case / "input/images/primary-baseline-ct", lambda hu: hu + 1),
    "mask": lambda case: rewrite_voxels(case / "input/images/primary-baseline-ct-tumor-lesion-seg", halved),
}


def made_at(cache: Cache) -> dict[str, int]:
    return {str(path.relative_to(cache.folder)): path.stat().st_mtime_ns for path in cache.folder.glob("*/*")}


def cases_made_again(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {Path(path).parent.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_file_of_a_case_has_only_that_case_cut_out_again(
    tmp_path: Path, recipe: Recipe, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_prepared(tmp_path)
    cases = data.cases[:3]
    before = made_at(build_cache(data, cases, recipe, workers=1))
    for path in cases[0].folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    assert made_at(build_cache(data, cases, recipe, workers=1)) == before
    CHANGES[what](cases[1].folder)
    caplog.set_level(logging.INFO)
    after = made_at(build_cache(data, cases, recipe, workers=1))
    assert cases_made_again(before, after) == {"b"}
    assert after.keys() == before.keys()
    assert "1 of them again, as their files or the code that places have changed: b" in caplog.text


def test_corrected_truth_of_a_case_reaches_its_samples(tmp_path: Path, recipe: Recipe) -> None:
    data = write_prepared(tmp_path)
    still = unjittered(recipe.jitter)

    def target_voxels(cache: Cache) -> dict[str, float]:
        samples = {
            lesion.case_id: sample_lesion(
                read_cut_out(cache.path(lesion)), recipe.model, still, np.random.default_rng(0)
            )
            for lesion in cache.lesions
            if lesion.lesion_id == 1
        }
        return {case_id: float(sample.target.sum()) for case_id, sample in samples.items() if sample is not None}

    before = target_voxels(build_cache(data, data.cases, recipe, workers=1))
    rewrite_voxels(data.folder / "cases/c/truth/images/primary-followup-ct-tumor-lesion-seg", halved)
    after = target_voxels(build_cache(data, data.cases, recipe, workers=1))
    assert 0 < after["c"] < 0.8 * before["c"]
    assert {case: voxels for case, voxels in after.items() if case != "c"} == {
        case: voxels for case, voxels in before.items() if case != "c"
    }


def test_nothing_is_left_of_a_lesion_or_a_case_that_the_data_no_longer_have(tmp_path: Path, recipe: Recipe) -> None:
    data = write_prepared(tmp_path)
    cache = build_cache(data, data.cases, recipe, workers=1)
    case = data.folder / "cases" / "a"
    rewrite_voxels(case / "input/images/primary-baseline-ct-tumor-lesion-seg", lambda ids: np.where(ids == 2, 0, ids))
    for name in ("baseline", "followup"):
        path = case / "input" / f"primary-{name}-lesion-clicks.json"
        clicks = json.loads(path.read_text())
        clicks["points"] = [point for point in clicks["points"] if point["name"] != "2"]
        path.write_text(json.dumps(clicks))
    fewer = replace(data, cases=tuple(case for case in data.cases if case.case_id != "d"))
    again = build_cache(fewer, fewer.cases[:2], recipe, workers=1)
    assert again.folder == cache.folder
    assert sorted(path.name for path in (cache.folder / "a").iterdir()) == ["1.npz", "lesions.json"]
    # What this run does not want, another one may.
    assert sorted(path.name for path in cache.folder.iterdir() if path.is_dir()) == ["a", "b", "c", "e1", "e2"]


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("longilesion.alignment", True),
        ("longilesion.registration.deformable", True),
        ("longilesion.images", True),
        ("longilesion.evaluation.lesion_table", True),
        ("training.cutout", True),
        ("longilesion.networks.fusion", False),
        ("longilesion.labelling", False),
    ],
)
def test_entries_depend_on_the_code_that_reads_and_places_and_on_no_other(
    monkeypatch: pytest.MonkeyPatch, module: str, counts: bool
) -> None:
    before = training.cache._code.__wrapped__()
    parse = ast.parse
    changed = Path(importlib.import_module(module).__file__ or "").read_bytes()

    def parse_with_change(source: bytes) -> ast.Module:
        return parse(source + b"\nCHANGED = True\n" if source == changed else source)

    monkeypatch.setattr(training.fingerprint.ast, "parse", parse_with_change)
    assert (training.cache._code.__wrapped__() != before) == counts


def test_other_code_or_another_patient_has_everything_cut_out_again_in_its_place(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_prepared(tmp_path)
    cases = data.cases[:2]
    first = made_at(build_cache(data, cases, recipe, workers=1))
    renamed = (cases[0], replace(cases[1], patient="zoe"))
    cache = build_cache(data, renamed, recipe, workers=1)
    assert {lesion.patient for lesion in cache.lesions} == {"ann", "zoe"}
    second = made_at(cache)
    assert cases_made_again(first, second) == {"b"}
    monkeypatch.setattr("training.cache._code", lambda: "after a correction of the alignment")
    third = made_at(build_cache(data, renamed, recipe, workers=1))
    assert cases_made_again(second, third) == {"a", "b"}
    assert first.keys() == second.keys() == third.keys()


def build_and_tell(folder: Path, recipe: Recipe, told: Path) -> list[CachedLesion]:
    """Builds a cache in a process of its own, and leaves a file for each case that it cuts out."""

    def telling(case: PreparedCase, folder: Path, recipe: Recipe) -> list[str]:
        (told / f"{case.case_id} {os.getpid()}").touch()
        time.sleep(0.05)
        return _cut_case(case, folder, recipe)

    training.cache._cut_case = telling
    data = read_prepared(folder)
    return list(build_cache(data, data.cases, recipe, workers=1).lesions)


def test_runs_that_want_the_same_cache_at_once_cut_each_case_out_once(tmp_path: Path, recipe: Recipe) -> None:
    folder, told = tmp_path / "data", tmp_path / "told"
    write_prepared(folder)
    told.mkdir()
    with ProcessPoolExecutor(2, mp_context=worker_context()) as pool:
        waiting = [pool.submit(build_and_tell, folder, recipe, told) for _ in range(2)]
        first, second = (each.result() for each in waiting)
    assert sorted(path.name.split()[0] for path in told.iterdir()) == ["a", "b", "c", "d", "e1", "e2"]
    assert first == second
    assert len(first) == 12
