import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.errors import InputError
from training.preparation.folds import check_patient_count, make_folds
from training.preparation.prepared import CaseEntry, DatasetFile, is_prepared, read_prepared, write_json

PATIENTS = [f"p{number:02d}" for number in range(10)]


def write_data(folder, *, patients=PATIENTS, cases=None, folds=5, is_complete=True):
    """A prepared data set of empty case folders: one per patient, but two of the first."""
    cases = cases or [(f"{patient}", patient) for patient in patients] + [(f"{patients[0]}_region2", patients[0])]
    for case_id, _ in cases:
        (folder / "cases" / case_id).mkdir(parents=True)
    entries = tuple(CaseEntry(case_id=case_id, patient=patient, lesions=1) for case_id, patient in cases)
    dataset = DatasetFile(name="small", source="folder", is_complete=is_complete, cases=entries, arguments={})
    write_json(folder / "dataset.json", dataset)
    write_json(folder / "folds.json", make_folds(patients, folds=folds, seed=3))
    return folder


@given(
    ids=st.sets(st.text("abcdef0123456789", min_size=1, max_size=6), min_size=5, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_patient_validates_in_one_fold_and_trains_in_all_others(ids, seed):
    folds = make_folds(ids, folds=5, seed=seed)
    assert sorted(patient for fold in folds.folds for patient in fold.validation.ids) == sorted(ids)
    for fold in (*folds.folds, folds.single):
        assert sorted((*fold.train.ids, *fold.validation.ids)) == sorted(ids)
        for part in (fold.train, fold.validation):
            assert [folds.patients[index] for index in part.indices] == list(part.ids)


def test_folds_of_ten_patients_are_equally_large_and_a_fifth_validates_once():
    folds = make_folds(PATIENTS, folds=5, seed=0)
    assert [len(fold.validation.ids) for fold in folds.folds] == [2] * 5
    assert (len(folds.single.train.ids), len(folds.single.validation.ids)) == (8, 2)
    assert folds.val_split == 0.2


def test_the_order_in_which_patients_are_found_does_not_matter_but_the_seed_does():
    assert make_folds(PATIENTS, folds=5, seed=1) == make_folds(PATIENTS[::-1], folds=5, seed=1)
    assert make_folds(PATIENTS, folds=5, seed=1) != make_folds(PATIENTS, folds=5, seed=2)


def test_fewer_patients_than_folds_are_refused_with_both_numbers():
    with pytest.raises(InputError, match="4 patients for 5 folds"):
        make_folds(PATIENTS[:4], folds=5, seed=0)


def test_one_patient_cannot_be_split():
    with pytest.raises(InputError, match=r"1 patients .* at least 2"):
        check_patient_count(1, folds=0, source="data")


def test_two_cases_of_a_patient_are_on_the_same_side(tmp_path):
    data = read_prepared(write_data(tmp_path))
    assert len(data.cases) == 11
    for fold in (*range(5), None):
        train, validation = data.split(fold)
        assert {case.patient for case in train} & {case.patient for case in validation} == set()
        assert len(train) + len(validation) == 11
    assert data.cases[0].folder == tmp_path / "cases" / "p00"


def test_patients_for_testing_are_cases_that_no_split_holds(tmp_path):
    write_data(tmp_path)
    write_json(tmp_path / "folds.json", make_folds(PATIENTS[1:], folds=3, seed=0, released={"test": ["p00"]}))
    data = read_prepared(tmp_path)
    assert len(data.cases) == 11
    assert all(case.patient != "p00" for part in data.split(None) for case in part)


def test_a_fold_that_is_not_there_is_refused(tmp_path):
    data = read_prepared(write_data(tmp_path))
    for fold in (5, -1):
        with pytest.raises(InputError, match=rf"folds.json: fold {fold}; expected 0 to 4"):
            data.split(fold)


def test_without_folds_there_is_the_single_split_alone(tmp_path):
    data = read_prepared(write_data(tmp_path, folds=0))
    assert [len(part) for part in data.split(None)] in ([9, 2], [8, 3])
    with pytest.raises(InputError, match="--folds 0"):
        data.split(0)


def test_an_unfinished_preparation_is_recognised_but_not_read(tmp_path):
    write_data(tmp_path, is_complete=False)
    assert is_prepared(tmp_path)
    with pytest.raises(InputError, match="not ended"):
        read_prepared(tmp_path)


def test_another_folder_is_not_prepared(tmp_path):
    assert not is_prepared(tmp_path)
    with pytest.raises(InputError, match=r"dataset.json: No such file"):
        read_prepared(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("dataset.json", "{", "dataset.json: the file: Invalid JSON"),
        ("dataset.json", '{"version": 2}', "dataset.json: version"),
        ("folds.json", "[]", "folds.json: the file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, text, message):
    write_data(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_prepared(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_case_folder_that_has_gone_is_named(tmp_path):
    write_data(tmp_path)
    (tmp_path / "cases" / "p04").rmdir()
    with pytest.raises(InputError, match="p04: no such folder"):
        read_prepared(tmp_path)


def test_folds_that_were_edited_into_a_leak_are_refused(tmp_path):
    write_data(tmp_path)
    folds = json.loads((tmp_path / "folds.json").read_text())
    folds["folds"][1]["train"]["ids"].append(folds["folds"][1]["validation"]["ids"][0])
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    with pytest.raises(InputError, match="fold 1 does not hold every patient once"):
        read_prepared(tmp_path)


def test_folds_of_other_patients_than_the_cases_are_refused(tmp_path):
    write_data(tmp_path)
    write_json(tmp_path / "folds.json", make_folds([*PATIENTS, "stranger"], folds=5, seed=0))
    with pytest.raises(InputError, match="patient stranger has no case"):
        read_prepared(tmp_path)
