import csv

import numpy as np
import pytest

from longilesion.errors import InputError
from test.unit.case_folders import lesion_ids, soft_tissue, write_image
from training.preparation.pair_folder import find_pairs
from training.preparation.prepared import read_prepared
from training.preparation.report import Count
from training.preparation.run import Options, prepare

SHAPE_ZYX = (8, 16, 20)
PAIRS = ["patient", "case", "scan", "baseline", "baseline_mask", "followup", "followup_mask"]
LESIONS = [
    "case", "lesion_id", "fate", "merged_into", "lesion_type", "baseline_x", "baseline_y", "baseline_z", "followup_x",
    "followup_y", "followup_z", "baseline_scan", "followup_scan", "is_target",
]  # fmt: skip


def write_rows(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def write_pair(root, case="a", *, before, after, scan="", patient="someone"):
    """Writes two scans with lesions at corners (z, y, x), and returns their line of pairs.csv."""
    line = {"patient": patient, "case": case, "scan": scan}
    for time_point, lesions in (("baseline", before), ("followup", after)):
        if lesions is None:
            continue
        line[time_point] = f"{case}/{time_point}{scan}.nii.gz"
        line[f"{time_point}_mask"] = f"{case}/{time_point}{scan}_mask.nii.gz"
        write_image(root / line[time_point], soft_tissue(SHAPE_ZYX))
        write_image(root / line[f"{time_point}_mask"], lesion_ids(lesions, SHAPE_ZYX))
    return line


def made(root, *lines, lesions=None):
    write_rows(root / "pairs.csv", PAIRS, lines)
    if lesions is not None:
        write_rows(root / "lesions.csv", LESIONS, lesions)
    (job,) = find_pairs(root, edge="lesion").jobs
    return job.make()


def points(case, time_point):
    found = {}
    for pair in case.clicks:
        point = getattr(pair, time_point)
        if point is not None:
            scan = case.followups[point.scan_name]
            found[pair.lesion_id] = (point.scan_name, *np.round(scan.grid.index_zyx(point.point_xyz_mm)[::-1], 4))
    return found


def test_without_a_table_the_masks_tell_fates_and_points(tmp_path):
    line = write_pair(tmp_path, before={1: (2, 4, 4), 2: (4, 4, 10)}, after={1: (3, 5, 6), 3: (2, 10, 10)})
    (content,) = made(tmp_path, line).cases
    assert {lesion_id: (fact.fate, fact.true_id) for lesion_id, fact in content.facts.items()} == {
        1: ("persists", 1),
        2: ("gone", None),
        3: ("new", 3),
    }
    # The centres of the cubes; the lesion that is gone has no place in the follow-up.
    assert points(content.case, "baseline") == {1: ("primary", 4.5, 4.5, 2.5), 2: ("primary", 10.5, 4.5, 4.5)}
    assert points(content.case, "followup") == {1: ("primary", 6.5, 5.5, 3.5), 3: ("primary", 10.5, 10.5, 2.5)}


def test_the_table_adds_to_the_masks(tmp_path):
    line = write_pair(tmp_path, before={1: (2, 4, 4), 2: (4, 4, 10)}, after={1: (3, 5, 6)})
    lesions = [
        {"case": "a", "lesion_id": 1, "lesion_type": "Liver", "is_target": "yes", "followup_x": 9, "followup_y": 8.5,
         "followup_z": 3},
        {"case": "a", "lesion_id": 2, "fate": "merged", "merged_into": 1},
    ]  # fmt: skip
    (content,) = made(tmp_path, line, lesions=lesions).cases
    assert content.facts[1].lesion_type == "Liver"
    assert content.facts[1].is_target is True
    assert (content.facts[2].fate, content.facts[2].true_id) == ("merged", 1)
    assert points(content.case, "followup")[1] == ("primary", 9.0, 8.5, 3.0)
    assert points(content.case, "baseline")[1] == ("primary", 4.5, 4.5, 2.5)


def test_a_secondary_scan_may_be_there_at_one_time_point_only(tmp_path):
    first = write_pair(tmp_path, before={1: (2, 4, 4), 2: (4, 4, 10)}, after={1: (3, 5, 6)})
    second = write_pair(tmp_path, scan="secondary", before=None, after={2: (2, 3, 4)})
    (content,) = made(tmp_path, first, second).cases
    assert list(content.case.baselines) == ["primary"]
    assert points(content.case, "followup")[2] == ("secondary", 4.5, 3.5, 2.5)
    assert content.facts[2].fate == "persists"


@pytest.mark.parametrize(
    ("lesion", "reason"),
    [
        ({"lesion_id": 2, "fate": "vanished"}, "unreadable line of the table"),
        ({"lesion_id": 2, "baseline_x": 3}, "unreadable line of the table"),
        ({"lesion_id": 2, "baseline_scan": "third"}, "unreadable line of the table"),
        ({"lesion_id": 2, "fate": "persists"}, "no voxels in the follow-up mask"),
        ({"lesion_id": 9, "fate": "gone"}, "no voxels in the baseline mask"),
        ({"lesion_id": 9}, "unreadable line of the table"),
        ({"lesion_id": 0, "fate": "gone"}, "unreadable line of the table"),
    ],
)
def test_a_lesion_whose_row_does_not_fit_is_left_out(tmp_path, lesion, reason):
    line = write_pair(tmp_path, before={1: (2, 4, 4), 2: (4, 4, 10)}, after={1: (3, 5, 6)})
    lesions = [{"case": "a", "lesion_id": 1}, {"case": "a", **lesion}]
    result = made(tmp_path, line, lesions=lesions)
    found = {record.lesion_id: record.left_out.reason for record in result.record.lesions if record.left_out}
    assert found[lesion["lesion_id"] or None] == reason
    assert list(result.cases[0].facts) == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"followup": "a/nothing.nii.gz"}], "line 2: followup: no such file .*a/nothing.nii.gz"),
        ([{"baseline_mask": ""}], "line 2: baseline_mask: no file named"),
        ([{"scan": "third"}], "line 2: scan 'third'"),
        ([{"baseline": "", "baseline_mask": ""}], "case a without a primary baseline scan"),
        ([{}, {}], "case a with scans primary, primary"),
        ([{"scan": "secondary"}], "case a with scans secondary"),
        ([{}, {"scan": "secondary", "patient": "another"}], "case a of patients another, someone"),
    ],
)
def test_a_pair_that_cannot_be_used_is_left_out_and_others_are_not(tmp_path, changes, message):
    line = write_pair(tmp_path, before={1: (2, 4, 4)}, after={1: (3, 5, 6)})
    good = write_pair(tmp_path, case="b", before={1: (2, 4, 4)}, after={1: (3, 5, 6)})
    write_rows(tmp_path / "pairs.csv", PAIRS, [*({**line, **change} for change in changes), good])
    source = find_pairs(tmp_path, edge="lesion")
    assert [job.name for job in source.jobs] == ["b"]
    with pytest.raises(InputError, match=message):
        raise InputError(str(source.left_out[0].left_out))


def test_tables_that_cannot_be_read_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"pairs\.csv: No such file"):
        find_pairs(tmp_path, edge="lesion")
    write_rows(tmp_path / "pairs.csv", PAIRS[:-1], [])
    with pytest.raises(InputError, match=r"pairs\.csv: no column followup_mask"):
        find_pairs(tmp_path, edge="lesion")
    (tmp_path / "pairs.csv").write_text("patient\n" + "x" * 200_000)
    with pytest.raises(InputError, match=r"pairs\.csv: line 2: field larger"):
        find_pairs(tmp_path, edge="lesion")
    write_rows(tmp_path / "pairs.csv", PAIRS, [])
    with pytest.raises(InputError, match=r"pairs\.csv: no lines"):
        find_pairs(tmp_path, edge="lesion")
    line = write_pair(tmp_path, before={1: (2, 4, 4)}, after={1: (3, 5, 6)})
    write_rows(tmp_path / "pairs.csv", PAIRS, [line | {"case": "../a"}])
    with pytest.raises(InputError, match=r"line 2: case '\.\./a'"):
        find_pairs(tmp_path, edge="lesion")


def test_lesions_of_unknown_cases_are_warnings(tmp_path):
    line = write_pair(tmp_path, before={1: (2, 4, 4)}, after={1: (3, 5, 6)})
    write_rows(tmp_path / "pairs.csv", PAIRS, [line])
    write_rows(tmp_path / "lesions.csv", LESIONS, [{"case": "b", "lesion_id": 1, "fate": "gone"}])
    source = find_pairs(tmp_path, edge="lesion")
    assert source.warnings == ("lesions.csv: line 2: case 'b' is not in pairs.csv",)
    # A case without lines has its masks to tell of its lesions.
    assert list(source.jobs[0].make().cases[0].facts) == [1]


def test_semicolons_and_byte_order_marks_are_read(tmp_path):
    line = write_pair(tmp_path, before={1: (2, 4, 4)}, after={1: (3, 5, 6)})
    text = ";".join(PAIRS) + "\n" + ";".join(str(line.get(column, "")) for column in PAIRS) + "\n"
    (tmp_path / "pairs.csv").write_text("\ufeff" + text)
    assert [job.patient for job in find_pairs(tmp_path, edge="lesion").jobs] == ["someone"]


def test_two_cases_of_a_patient_stay_together(tmp_path):
    lines = [
        write_pair(tmp_path, case=case, patient=patient, before={1: (2, 4, 4)}, after={1: (3, 5, 6)})
        for case, patient in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "three"))
    ]
    lines[3]["followup"] = "nothing.nii.gz"
    write_rows(tmp_path / "pairs.csv", PAIRS, lines)
    options = Options(output=tmp_path / "data", name="own", licence="ours", folds=2, workers=1)
    report = prepare(find_pairs(tmp_path, edge="lesion"), options)
    assert report.patients == Count(found=3, kept=2, left_out=1)
    assert "- patient three, case d: pair of scans" in (tmp_path / "data" / "report.md").read_text()
    data = read_prepared(tmp_path / "data")
    assert {case.case_id: case.patient for case in data.cases} == {"a": "one", "b": "one", "c": "two"}
    assert sorted(len(data.split(fold)[1]) for fold in range(2)) == [1, 2]
