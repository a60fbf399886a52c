"""What a run finds to learn from and to be judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longilesion.errors import InputError
from test.unit.case_folders import write_image
from test.unit.prepared_data import CASES, write_prepared
from test.unit.training_runs import few_pairs, write_recipe
from training.dataset import CachedLesions, SyntheticLesions
from training.recipe import DataSettings, Recipe, read_recipe
from training.synthesis.shape_library import LibraryShape, write_shape_library
from training.training_data import find_training_data, held_out_sources, split_volumes, synthesis_sources
from training.validation import CaseValidation


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return read_recipe(write_recipe(tmp_path / "tiny.toml"))


def write_volumes(folder: Path, count: int) -> Path:
    for number in range(count):
        hu = np.full((12, 30, 30), -1000, np.int16)
        hu[:, 4:-4, 4:-4] = 40
        write_image(folder / f"volume_{number:02d}" / "ct.nii.gz", hu, spacing_xyz_mm=(4.0, 4.0, 4.0))
    return folder


def test_every_fifth_volume_validates_where_the_recipe_names_none(recipe: Recipe, tmp_path: Path) -> None:
    training, validation = synthesis_sources(write_volumes(tmp_path / "ct", 6), recipe)
    assert [source.name for source in validation] == ["volume_04"]
    assert [source.name for source in training] == [f"volume_0{number}" for number in (0, 1, 2, 3, 5)]
    training, validation = synthesis_sources(write_volumes(tmp_path / "few", 2), recipe)
    assert [source.name for source in (*training, *validation)] == ["volume_00", "volume_01"]


def test_volumes_that_the_recipe_names_are_taken_and_missing_ones_refused(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_volumes(tmp_path / "ct", 3)
    named = recipe.model_copy(update={"data": DataSettings(train=("volume_02",), validation=("volume_00",))})
    training, validation = synthesis_sources(folder, named)
    assert [source.name for source in (*training, *validation)] == ["volume_02", "volume_00"]
    missing = recipe.model_copy(update={"data": DataSettings(train=("volume_02",), validation=("volume_09",))})
    with pytest.raises(InputError, match=r"no volume_09/ct\.nii\.gz"):
        synthesis_sources(folder, missing)


def test_a_fold_of_volumes_validates_and_the_recipes_own_validation_is_never_seen(
    recipe: Recipe, tmp_path: Path
) -> None:
    folder = write_volumes(tmp_path / "ct", 5)
    names = [f"volume_0{number}" for number in range(5)]
    folds = (tuple(names[:1]), tuple(names[2:4]))
    data = DataSettings(train=tuple(names[:4]), validation=(names[4],), folds=folds)
    folded = recipe.model_copy(update={"data": data})
    for fold, held_out in enumerate(folds):
        training, validation = split_volumes(folder, folded, fold=fold)
        assert validation == list(held_out)
        assert sorted((*training, *held_out)) == names[:4]
        assert [source.name for source in held_out_sources(folder, folded, fold=fold)] == validation
    assert split_volumes(folder, folded) == (names[:4], names[4:])
    with pytest.raises(InputError, match=r"--fold 2: recipe tiny has 2 folds of volumes, .*; expected 0 to 1"):
        split_volumes(folder, folded, fold=2)
    with pytest.raises(InputError, match="expected a prepared data set"):
        split_volumes(folder, recipe, fold=0)
    elsewhere = recipe.model_copy(update={"data": DataSettings(train=("a", "b"), folds=(("a",),))})
    with pytest.raises(InputError, match="--fold 0: none of the volumes that recipe tiny names"):
        split_volumes(folder, elsewhere, fold=0)
    with pytest.raises(InputError, match="phantoms have no folds"):
        held_out_sources(None, folded, fold=0)


@pytest.mark.parametrize("folds", [(("a",), ("a",)), (("b",),), (("v",),), (("a", "a"),)])
def test_a_volume_belongs_to_one_fold_and_to_the_training(folds: tuple[tuple[str, ...], ...]) -> None:
    with pytest.raises(ValueError, match="is in folds; expected volumes of train, each in one fold"):
        DataSettings(train=("a", "c"), validation=("v",), folds=folds)


def test_one_volume_cannot_train_and_validate(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least two"):
        synthesis_sources(write_volumes(tmp_path / "ct", 1), recipe)


def test_folds_of_a_prepared_data_set_never_validate_a_patient_that_trains(recipe: Recipe, tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data")
    judged = 0
    for fold in range(5):
        training_data = find_training_data(data.folder, recipe, fold=fold, seed=0, workers=1)
        assert isinstance(training_data.lesions, CachedLesions)
        training, validation = data.split(fold)
        assert f"{len(training)} cases, without fold {fold}" in training_data.trained_on
        patients = {CASES[case.case_id] for case in training}
        seen = {training_data.lesions[index].origin for index in range(2 * len(patients))}
        assert seen == patients
        assert isinstance(training_data.validation, CaseValidation)
        for number, case in enumerate(training_data.validation.cases):
            exam, scans = case()
            assert exam.name == validation[number].case_id
            assert CASES[exam.name] not in patients
            assert set(scans.followups) == {"primary"}
            judged += 1
    assert judged >= 5
    with pytest.raises(InputError, match="fold"):
        find_training_data(data.folder, recipe, fold=7, seed=0, workers=1)


def test_phantoms_stand_in_for_data_and_are_the_same_every_time(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_pairs(monkeypatch)
    training_data = find_training_data(None, recipe, fold=None, seed=0, workers=1)
    assert isinstance(training_data.lesions, SyntheticLesions)
    assert training_data.trained_on == "phantoms"
    assert isinstance(training_data.validation, CaseValidation)
    first, again = (training_data.validation.cases[1]() for _ in range(2))
    assert first[0].name == again[0].name
    np.testing.assert_array_equal(first[1].followups["primary"].hu, again[1].followups["primary"].hu)


def test_shapes_of_a_file_are_recorded_with_their_licence_and_not_used_with_prepared_data(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_pairs(monkeypatch)
    path = tmp_path / "shapes.npz"
    found = []
    for size in (3, 4):
        mask = np.ones((size, size, size), bool)
        write_shape_library(path, [LibraryShape.of(mask, np.ones(3, np.float32), "bone")], licence="CC BY 4.0")
        found.append(find_training_data(None, recipe.with_shapes(path), fold=None, seed=0, workers=1))
    first, second = found
    assert first.licence == "lesion shapes of shapes.npz: CC BY 4.0"
    assert first.trained_on.startswith("phantoms, 1 shapes of shapes.npz ")
    assert first.contents != second.contents
    data = write_prepared(tmp_path / "data")
    with pytest.raises(InputError, match=r"shapes\.npz: .* is prepared; expected shapes in training\.prepare"):
        find_training_data(data.folder, recipe.with_shapes(path), fold=0, seed=0, workers=1)
