import json

import pytest

from longilesion.errors import InputError
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam
from longilesion.grand_challenge import read_case
from longilesion.prompts import complete_prompts
from test.longitudinal_ct import write_longitudinal_ct, write_patient
from test.unit.case_folders import files_under
from test.unit.tiny_patients import patient, row
from training import prepare as command
from training.preparation import memory, run
from training.preparation.longitudinal_ct import find_longitudinal_ct
from training.preparation.prepared import read_prepared
from training.preparation.run import Options, prepare


@pytest.fixture(scope="module")
def phantom_tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_longitudinal_ct(folder, patients=6, naming="release 2")
    return folder


@pytest.fixture
def tree(tmp_path):
    """Five tiny patients with a lesion each."""
    for number in range(5):
        write_patient(tmp_path / "tree", f"patient{number:03d}", patient([row(1)]), with_clicks=False)
    return tmp_path / "tree"


def prepared(tree, output, **options):
    options = {"folds": 0, "workers": 1, **options}
    source = find_longitudinal_ct(tree, edge="lesion", keep_unclear=False)
    return prepare(source, Options(output=output, name="tiny", **options))


def remove_table(tree, number):
    (tree / "inputsTr" / f"patient{number:03d}.csv").write_text("lesion_id\n1\n")


def test_phantoms_of_all_kinds_become_cases_that_the_library_reads(phantom_tree, tmp_path, capsys):
    report = prepared(phantom_tree, tmp_path, seed=4)
    data = read_prepared(tmp_path)
    assert [case.case_id for case in data.cases] == [
        "patient000", "patient001", "patient002", "patient002_region2", "patient003", "patient004", "patient005",
    ]  # fmt: skip
    # Release 2 keeps the last patient for testing.
    assert data.folds.patients == tuple(f"patient{number:03d}" for number in range(5))
    assert data.folds.released["test"] == ("patient005",)
    assert report.patients_for_testing == ("patient005",)
    assert report.warnings == ()
    assert {(reason.reason, reason.count) for reason in report.reasons} == {
        ("point at the edge of its scan", 1), ("linking unclear", 1), ("not used in the challenge", 1),
    }  # fmt: skip
    for files in find_exams(tmp_path / "cases"):
        exam, warnings = read_exam(files)
        assert warnings == []
        case, _ = read_case(files.case)
        assert [prompt.lesion_id for prompt in complete_prompts(case).lesions] == list(exam.facts)
    assert "7 cases" in capsys.readouterr().out


def test_the_report_tells_of_every_lesion_image_and_patient(tree, tmp_path):
    remove_table(tree, 1)
    drawn = patient([row(1), row(2, linking_unclear=True)], before=(1, 2), after=(1, 2), more_before={2: ()})
    write_patient(tree, "patient003", drawn, with_clicks=False)
    prepared(tree, tmp_path / "data")
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["patients"] == {"found": 5, "kept": 4, "left_out": 1}
    assert report["lesions"] == {"found": 5, "kept": 4, "left_out": 1}
    assert report["images"] == {"found": 9, "kept": 8, "left_out": 1}
    assert [record["patient"] for record in report["records"]] == [f"patient{number:03d}" for number in range(5)]
    text = (tmp_path / "data" / "report.md").read_text()
    assert "- patient patient001: files that cannot be used" in text
    assert "patient001.csv: no column cog_bl" in text
    assert "- patient patient003, lesion 2: linking unclear" in text
    assert "- patient patient003, image patient003_BL_img_02.nii.gz: image without a lesion" in text
    assert [case.patient for case in read_prepared(tmp_path / "data").cases] == [
        "patient000", "patient002", "patient003", "patient004",
    ]  # fmt: skip


def test_an_interrupted_run_goes_on_with_what_is_missing(tree, tmp_path, monkeypatch):
    write, written = run.write_case, []

    def interrupted(content, folder):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(content.case_id)
        write(content, folder)

    monkeypatch.setattr(run, "write_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(tree, tmp_path / "data")
    with pytest.raises(InputError, match="not ended"):
        read_prepared(tmp_path / "data")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "cases").rglob("*")}
    written.clear()
    monkeypatch.setattr(
        run, "write_case", lambda content, folder: (written.append(content.case_id), write(content, folder))
    )
    prepared(tree, tmp_path / "data")
    assert written == ["patient002", "patient003", "patient004"]
    assert all(path.stat().st_mtime_ns == time for path, time in first.items() if path.is_file())
    assert len(read_prepared(tmp_path / "data").cases) == 5
    assert [path for path in files_under(tmp_path / "data") if ".partial" in path] == []


def test_a_case_folder_that_was_deleted_is_made_again(tree, tmp_path):
    prepared(tree, tmp_path / "data")
    folder = tmp_path / "data" / "cases" / "patient001"
    folder.rename(tmp_path / "elsewhere")
    prepared(tree, tmp_path / "data")
    assert files_under(folder) == files_under(tmp_path / "elsewhere")


def test_the_same_seed_gives_the_same_files(tree, tmp_path):
    for name in ("a", "b"):
        prepared(tree, tmp_path / name, folds=5, seed=7)
    assert files_under(tmp_path / "a") == files_under(tmp_path / "b")
    for path in files_under(tmp_path / "a"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_other_arguments_for_the_same_folder_are_refused(tree, tmp_path):
    prepared(tree, tmp_path / "data")
    with pytest.raises(InputError, match=r"dataset\.json: prepared with seed 0, not 1"):
        prepared(tree, tmp_path / "data", seed=1)
    other = find_longitudinal_ct(tree, edge="keep", keep_unclear=False)
    with pytest.raises(InputError, match="prepared with edge 'lesion', not 'keep'"):
        prepare(other, Options(output=tmp_path / "data", name="tiny", folds=0, workers=1))


def test_fewer_patients_than_folds_are_refused_before_the_work(tree, tmp_path):
    with pytest.raises(InputError, match="5 patients for 6 folds"):
        prepared(tree, tmp_path / "data", folds=6)
    assert not (tmp_path / "data").exists()


def test_fewer_patients_than_folds_are_refused_once_some_are_left_out(tree, tmp_path):
    remove_table(tree, 0)
    with pytest.raises(InputError, match="4 patients for 5 folds"):
        prepared(tree, tmp_path / "data", folds=5)
    assert (tmp_path / "data" / "report.md").is_file()


def test_no_patient_that_can_be_used_is_an_error_with_the_first_reason(tree, tmp_path):
    for number in range(5):
        remove_table(tree, number)
    with pytest.raises(InputError, match=r"none of 5 patients can be used; .*patient000\.csv: no column cog_bl"):
        prepared(tree, tmp_path / "data")


def test_patients_without_tables_are_an_error_that_says_so(tree, tmp_path):
    for path in tree.glob("inputsTr/*.csv"):
        path.unlink()
    with pytest.raises(InputError, match="none of 5 patients can be used; patient patient000: no lesion table"):
        prepared(tree, tmp_path / "data")


def test_strict_makes_an_error_of_a_fault_but_not_of_a_rule(tree, tmp_path):
    drawn = patient([row(1), row(2, linking_unclear=True)], before=(1, 2), after=(1, 2))
    write_patient(tree, "patient003", drawn, with_clicks=False)
    prepared(tree, tmp_path / "ruled", strict=True)
    write_patient(tree, "patient002", patient([row(1), row(2)], after=(1, 2)), with_clicks=False)
    with pytest.raises(InputError, match=r"1 errors.*patient002, lesion 2: no voxels in the baseline mask"):
        prepared(tree, tmp_path / "with_errors", strict=True)
    with pytest.raises(InputError, match="not ended"):
        read_prepared(tmp_path / "with_errors")


def test_a_folder_that_cannot_be_written_is_no_exclusion(tree, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(InputError, match=r"/data: .*; expected a folder that can be written to"):
        prepared(tree, tmp_path / "data")
    (tmp_path / "full" / "cases").mkdir(parents=True)
    (tmp_path / "full" / "records").write_text("a file")
    with pytest.raises(InputError, match=r"full/records: .*; expected a folder that can be written to"):
        prepared(tree, tmp_path / "full")


@pytest.mark.parametrize(("megabytes", "cores", "count"), [(10, 2, 2), (62, 64, 8), (600, 64, 3), (9000, 8, 1)])
def test_workers_are_as_many_as_cores_and_memory_allow(monkeypatch, megabytes, cores, count):
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: set(range(cores)))
    assert memory.worker_count([megabytes * 2**20, 1], 0) == count
    assert memory.worker_count([megabytes * 2**20], 5) == 5


def test_memory_grows_with_all_scans_and_the_largest(tree):
    scans = sorted(tree.glob("inputsTr/*_img_00.nii.gz"))[:2]
    # 8 x 16 x 20 voxels each.
    assert memory.memory_bytes(scans) == 2560 * (2 * 2.5 + 8)
    scans[0].write_text("no image")
    assert memory.memory_bytes(scans) == 2560 * (2.5 + 8)


def test_the_command_prepares_and_reports(tree, tmp_path, monkeypatch, capsys, restored_logging):
    arguments = ["longitudinal-ct", str(tree), "--output", str(tmp_path / "data"), "--workers", "1", "--seed", "2"]
    monkeypatch.setattr("sys.argv", ["prepare", *arguments])
    assert command.main() == 0
    data = read_prepared(tmp_path / "data")
    assert (data.name, data.folds.seed, len(data.folds.folds)) == ("data", 2, 5)
    assert "CC BY-NC 4.0" in (tmp_path / "data" / "dataset.json").read_text()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "5 cases" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds 1; expected at least 2, or 0 for the 80/20 split alone"),
        (["--folds", "-3"], "--folds -3; expected at least 2, or 0 for the 80/20 split alone"),
        (["--seed", "-1"], "--workers 0 --seed -1; expected at least 0"),
        (["--workers", "-2"], "--workers -2 --seed 0; expected at least 0"),
    ],
)
def test_the_command_refuses_options_out_of_range(
    tree, tmp_path, monkeypatch, capsys, restored_logging, arguments, message
):
    monkeypatch.setattr(
        "sys.argv", ["prepare", "longitudinal-ct", str(tree), "--output", str(tmp_path / "a"), *arguments]
    )
    assert command.main() == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "a").exists()
