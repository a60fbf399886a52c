import json

import numpy as np
import pytest

from longilesion.errors import InputError
from longilesion.geometry import Grid
from test.longitudinal_ct import write_nifti, write_patient
from test.unit.case_folders import write_points
from test.unit.tiny_patients import AFTER, SHAPE_ZYX, patient, row
from training.preparation.longitudinal_ct import find_longitudinal_ct
from training.preparation.released_splits import patients_for_testing, read_released_splits


def made(root, drawn, *, edge="lesion", keep_unclear=False, naming="current"):
    write_patient(root, "abcdefghij", drawn, naming=naming, with_clicks=False)
    source = find_longitudinal_ct(root, edge=edge, keep_unclear=keep_unclear)
    (job,) = source.jobs
    return job.make()


def reasons(result):
    return {record.lesion_id: record.left_out.reason for record in result.record.lesions if record.left_out}


def points(case, time_point):
    """The clicks of a time point as voxel indices x, y, z, by lesion id."""
    found = {}
    for pair in case.clicks:
        click = getattr(pair, time_point)
        scans = case.followups if time_point == "followup" else {n: b.scan for n, b in case.baselines.items()}
        if click is not None:
            index = scans[click.scan_name].grid.index_zyx(click.point_xyz_mm)[::-1]
            found[pair.lesion_id] = (click.scan_name, *(round(part, 4) for part in index))
    return found


@pytest.mark.parametrize("naming", ["current", "earlier", "release 2"])
def test_a_lesion_of_each_topology_becomes_a_prompt_with_its_fate(tmp_path, naming):
    rows = [row(1), row(2, "NEWLYAPPEARING"), row(3, "DISAPPEARING"), row(4, "MERGING", merged_into=1)]
    (content,) = made(tmp_path, patient(rows, before=(1, 3, 4), after=(1, 2)), naming=naming).cases
    facts = {lesion_id: (fact.fate, fact.true_id) for lesion_id, fact in content.facts.items()}
    assert facts == {1: ("persists", 1), 2: ("new", 2), 3: ("gone", None), 4: ("merged", 1)}
    assert content.facts[1].lesion_type == "Liver"
    # The point propagated where there is one, else the true centre; backwards for the new lesion.
    after = points(content.case, "followup")
    assert after[1] == ("primary", 5.25, 4.0, 2.0)
    assert after[2] == ("primary", 4.5, 10.5, 2.5)
    before = points(content.case, "baseline")
    assert before[1] == ("primary", 4.5, 4.5, 2.5)
    assert before[2] == ("primary", 6.0, 7.0, 3.0)
    assert np.unique(content.truth["primary"].ids).tolist() == [0, 1, 2]
    assert sorted(content.case.baselines["primary"].regions) == [1, 3, 4]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"use_for_challenge": False}, "not used in the challenge"), ({"linking_unclear": True}, "linking unclear")],
)
def test_a_lesion_that_does_not_count_loses_prompt_outline_and_true_voxels(tmp_path, change, reason):
    result = made(tmp_path, patient([row(1), row(2, **change)], before=(1, 2), after=(1, 2)))
    (content,) = result.cases
    assert reasons(result) == {2: reason}
    assert [pair.lesion_id for pair in content.case.clicks] == [1]
    assert np.unique(content.truth["primary"].ids).tolist() == [0, 1]
    assert sorted(content.case.baselines["primary"].regions) == [1]
    assert not any(record.left_out.is_error for record in result.record.lesions if record.left_out)


def test_unclear_lesions_and_unclear_types_can_be_kept(tmp_path):
    rows = [row(1, linking_unclear=True), row(2, lesion_type="unclear")]
    result = made(tmp_path, patient(rows, before=(1, 2), after=(1, 2)), keep_unclear=True)
    assert sorted(result.cases[0].facts) == [1, 2]


# The last voxels' centres are 19, 15 and 7.
@pytest.mark.parametrize("point", ["0.5 5 3", "18.5 5 3", "5 5 6.5", "5 -2 3", "5 5 30"])
@pytest.mark.parametrize("column", ["cog_propagated", "cog_bl"])
def test_a_point_at_the_edge_or_outside_leaves_out_the_lesion(tmp_path, column, point):
    result = made(tmp_path, patient([row(1), row(2, **{column: point})], before=(1, 2), after=(1, 2)))
    assert reasons(result) == {2: "point at the edge of its scan"}
    assert np.unique(result.cases[0].truth["primary"].ids).tolist() == [0, 1]
    assert sorted(result.cases[0].case.baselines["primary"].regions) == [1]


def test_a_point_just_inside_the_edge_is_kept(tmp_path):
    result = made(tmp_path, patient([row(1, cog_propagated="0.6 14.4 6.4")]))
    assert reasons(result) == {}


def test_a_point_at_the_edge_can_leave_out_the_patient_or_nothing(tmp_path):
    drawn = patient([row(1), row(2, cog_propagated="0 0 0")], before=(1, 2), after=(1, 2))
    left_out = made(tmp_path / "a", drawn, edge="patient")
    assert left_out.cases == ()
    assert left_out.record.left_out.reason == "point at the edge of its scan"
    assert "lesion 2" in left_out.record.left_out.detail
    kept = made(tmp_path / "b", drawn, edge="keep")
    assert sorted(kept.cases[0].facts) == [1, 2]


@pytest.mark.parametrize(
    ("rows", "before", "after", "reason"),
    [
        ([row(2)], (1,), (1, 2), "no voxels in the baseline mask"),
        ([row(2)], (1, 2), (1,), "no voxels in the follow-up mask"),
        ([row(2, "NEWLYAPPEARING")], (1, 2), (1, 2), "new, but outlined in the baseline"),
        ([row(2, "NEWLYAPPEARING")], (1,), (1,), "no voxels in the follow-up mask"),
        ([row(2, "DISAPPEARING")], (1, 2), (1, 2), "disappeared, but outlined in the follow-up"),
        ([row(2, "DISAPPEARING")], (1,), (1,), "no voxels in the baseline mask"),
        ([row(2, "MERGING", merged_into=9)], (1, 2), (1,), "merged into an unknown lesion"),
        ([row(2, "MERGING")], (1, 2), (1,), "merged into an unknown lesion"),
        ([row(2, "MERGING", merged_into=1)], (1, 2), (1, 2), "merged into another lesion, but outlined"),
        ([row(2, img_id_fu=1)], (1, 2), (1, 2), "follow-up image missing"),
        ([row(2, img_id_bl=2)], (1, 2), (1, 2), "baseline image missing"),
        ([row(2, "SHRINKING")], (1, 2), (1, 2), "unreadable line of the table"),
        ([row(2, cog_bl="4 five 6")], (1, 2), (1, 2), "unreadable line of the table"),
        ([row(2, use_for_challenge="maybe")], (1, 2), (1, 2), "unreadable line of the table"),
        ([row(2), row(2, img_id_fu=1)], (1, 2), (1, 2), "different lines of the table"),
        ([], (1, 2), (1,), "outlined, but not in the table"),
        ([], (1,), (1, 2), "outlined, but not in the table"),
    ],
)
def test_a_lesion_whose_row_and_outlines_disagree_is_left_out_as_an_error(tmp_path, rows, before, after, reason):
    result = made(tmp_path, patient([row(1), *rows], before=before, after=after))
    (left_out,) = [record for record in result.record.lesions if record.left_out]
    assert left_out.lesion_id == 2
    assert left_out.left_out.reason.startswith(reason)
    assert left_out.left_out.is_error
    (content,) = result.cases
    assert list(content.facts) == [1]
    assert np.unique(content.truth["primary"].ids).tolist() == [0, 1]
    assert sorted(content.case.baselines["primary"].regions) == [1]


def test_a_row_without_an_id_is_reported(tmp_path):
    result = made(tmp_path, patient([row(1), row(2) | {"lesion_id": "two"}]))
    assert reasons(result) == {None: "unreadable line of the table"}


def test_a_repeated_line_counts_once_with_a_warning(tmp_path):
    result = made(tmp_path, patient([row(1), row(1)]))
    assert list(result.cases[0].facts) == [1]
    assert result.record.warnings == ("abcdefghij.csv: line 3: lesion 1 a second time, in the same words",)


def test_mergers_in_a_chain_end_in_the_lesion_that_has_voxels(tmp_path):
    rows = [row(1), row(2, "MERGING", merged_into=3), row(3, "MERGING", merged_into=1)]
    (content,) = made(tmp_path, patient(rows, before=(1, 2, 3), after=(1,))).cases
    assert {lesion_id: fact.true_id for lesion_id, fact in content.facts.items()} == {1: 1, 2: 1, 3: 1}


def test_lesions_that_merge_into_a_new_label_keep_its_voxels(tmp_path):
    rows = [row(1, "MERGING", merged_into=4), row(2, "MERGING", merged_into=4)]
    result = made(tmp_path, patient(rows, before=(1, 2), after=(4,)))
    assert reasons(result) == {}
    assert {fact.true_id for fact in result.cases[0].facts.values()} == {4}
    assert np.unique(result.cases[0].truth["primary"].ids).tolist() == [0, 4]


def test_a_lesion_that_merged_into_one_left_out_is_left_out_too(tmp_path):
    rows = [row(1), row(2, use_for_challenge=False), row(3, "MERGING", merged_into=2)]
    result = made(tmp_path, patient(rows, before=(1, 2, 3), after=(1, 2)))
    assert reasons(result) == {2: "not used in the challenge", 3: "merged into a lesion that is left out"}
    assert np.unique(result.cases[0].truth["primary"].ids).tolist() == [0, 1]


def test_a_lesion_can_change_from_the_primary_to_the_secondary_scan(tmp_path):
    rows = [row(1), row(2, img_id_bl=0, img_id_fu=1)]
    drawn = patient(rows, before=(1, 2), after=(1,), more_before={1: ()}, more_after={1: (2,)})
    (content,) = made(tmp_path, drawn).cases
    assert points(content.case, "baseline")[2][0] == "primary"
    assert points(content.case, "followup")[2][0] == "secondary"
    assert np.unique(content.truth["secondary"].ids).tolist() == [0, 2]


def test_a_third_region_is_another_case_of_the_same_patient(tmp_path):
    rows = [row(1), row(2, img_id_bl=2, img_id_fu=2), row(3, "DISAPPEARING", img_id_bl=0, img_id_fu=2)]
    drawn = patient(rows, before=(1, 3), after=(1,), more_before={1: (), 2: (2,)}, more_after={1: (), 2: (2,)})
    result = made(tmp_path, drawn)
    first, second = result.cases
    assert [case.case_id for case in result.cases] == ["abcdefghij", "abcdefghij_region2"]
    assert {case.patient for case in result.cases} == {"abcdefghij"}
    assert list(first.facts) == [1]
    # A lesion of the other case must not be looked for in this one.
    assert sorted(first.case.baselines["primary"].regions) == [1]
    assert list(second.facts) == [2, 3]
    assert list(second.case.followups) == ["primary"]
    assert {name: sorted(part.regions) for name, part in second.case.baselines.items()} == {
        "primary": [3],
        "secondary": [2],
    }
    assert result.record.warnings == ()


def test_a_lesion_whose_baseline_image_is_in_another_case_is_kept_without_baseline(tmp_path):
    rows = [row(1), row(2, img_id_bl=2)]
    drawn = patient(rows, before=(1,), after=(1, 2), more_before={1: (), 2: (2,)})
    result = made(tmp_path, drawn)
    (content,) = result.cases
    assert points(content.case, "baseline").keys() == {1}
    assert points(content.case, "followup").keys() == {1, 2}
    assert "lesion 2: its baseline image 2 is not in the case abcdefghij" in result.record.warnings[0]
    unused = [record for record in result.record.images if record.left_out]
    assert [record.file for record in unused] == ["abcdefghij_BL_img_02.nii.gz"]


def test_an_image_without_its_mask_is_left_out_with_its_lesions(tmp_path):
    drawn = patient([row(1), row(2, img_id_fu=1)], before=(1, 2), after=(1,), more_after={1: (2,)})
    write_patient(tmp_path, "abcdefghij", drawn)
    (tmp_path / "targetsTr" / "abcdefghij_FU_mask_01.nii.gz").unlink()
    (job,) = find_longitudinal_ct(tmp_path, edge="lesion", keep_unclear=False).jobs
    result = job.make()
    assert reasons(result) == {2: "follow-up image missing"}
    assert [str(record.left_out) for record in result.record.images if record.left_out] == ["image without its mask"]


def broken(root, change):
    """Makes a patient after a change to its files."""
    write_patient(root, "abcdefghij", patient([row(1)]))
    change(root)
    (job,) = find_longitudinal_ct(root, edge="lesion", keep_unclear=False).jobs
    return job.make()


def without_column(root):
    path = root / "inputsTr" / "abcdefghij.csv"
    path.write_text(path.read_text().replace("merged_into", "joined_with"))


def with_smaller_mask(root):
    grid = Grid.from_spacing((8, 16, 19), (3.0, 0.8, 0.8))
    write_nifti(root / "targetsTr" / "abcdefghij_FU_mask_00.nii.gz", np.zeros(grid.shape_zyx, np.uint8), grid)


def with_fractions(root):
    values = np.full(SHAPE_ZYX, 0.5, np.float32)
    write_nifti(root / "targetsTr" / "abcdefghij_FU_mask_00.nii.gz", values, AFTER)


def without_scan(root):
    (root / "inputsTr" / "abcdefghij_FU_img_00.nii.gz").unlink()


def with_both_namings(root):
    path = root / "inputsTr" / "abcdefghij_BL_img_00.nii.gz"
    path.with_name("abcdefghij_BL_img_BL_img_00.nii.gz").write_bytes(path.read_bytes())


def truncated(root):
    path = root / "inputsTr" / "abcdefghij_BL_img_00.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_column, r"abcdefghij\.csv: no column merged_into"),
        (with_smaller_mask, r"FU_mask_00\.nii\.gz: mask of 19 x 16 x 8 voxels; expected 20 x 16 x 8"),
        (with_fractions, r"FU_mask_00\.nii\.gz: mask with fractional"),
        (without_scan, r"no abcdefghij_FU_img_00 with its abcdefghij_FU_mask_00; expected both"),
        (with_both_namings, r"abcdefghij_BL_img_BL_img_00\.nii\.gz: the same image as abcdefghij_BL_img_00"),
        (truncated, r"abcdefghij_BL_img_00\.nii\.gz: .*; expected"),
    ],
)
def test_a_broken_patient_is_an_error_that_names_the_file(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        broken(tmp_path, change)
    assert "\n" not in str(caught.value)


def test_a_patient_without_lesions_is_left_out(tmp_path):
    result = made(tmp_path, patient([], before=(), after=()))
    assert result.cases == ()
    assert result.record.left_out.reason == "no lesion that can be used"


def test_a_patient_without_a_table_is_left_out(tmp_path):
    write_patient(tmp_path, "abcdefghij", patient([row(1)]))
    (tmp_path / "inputsTr" / "abcdefghij.csv").unlink()
    source = find_longitudinal_ct(tmp_path, edge="lesion", keep_unclear=False)
    assert source.jobs == ()
    assert str(source.left_out[0].left_out) == "no lesion table (expected inputsTr/abcdefghij.csv)"


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder inputsTr"):
        find_longitudinal_ct(tmp_path, edge="lesion", keep_unclear=False)
    (tmp_path / "inputsTr").mkdir()
    with pytest.raises(InputError, match="no patients"):
        find_longitudinal_ct(tmp_path, edge="lesion", keep_unclear=False)


def test_clicks_that_differ_from_the_table_are_warnings(tmp_path):
    drawn = patient([row(1), row(2)], before=(1, 2), after=(1, 2))
    write_patient(tmp_path, "abcdefghij", drawn)
    (job,) = find_longitudinal_ct(tmp_path, edge="lesion", keep_unclear=False).jobs
    assert job.make().record.warnings == ()
    clicks = tmp_path / "inputsTr" / "abcdefghij_FU_00.json"
    write_points(clicks, {"1": (5.25, 4.0, 4.0), "7": (3.0, 3.0, 3.0)})
    assert job.make().record.warnings == (
        "abcdefghij_FU_00.json: a click on lesion 7, which is not in the table",
        "abcdefghij_FU_00.json: lesion 1 is at 5.25 4 4, in the table at 5.25 4 2",
        "abcdefghij_FU_00.json: no click on lesion 2, of which the table says a point",
    )
    clicks.write_text("no JSON")
    assert "abcdefghij_FU_00.json" in job.make().record.warnings[0]
    assert sorted(job.make().cases[0].facts) == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        {"train": ["a", "b"], "val": ["c"], "test": ["d"]},
        {"splits": {"train": {"patients": ["a", "b"]}, "val": ["c"], "test": [{"id": "d"}]}},
        {"a": "train", "b": "train", "c": "val", "d": "test"},
        {"train": ["a_BL_img_00.nii.gz", "b.csv"], "val": ["inputsTr/c_FU_img_00.nii.gz"], "test": ["d"]},
    ],
)
def test_released_splits_are_read_in_any_shape(tmp_path, content):
    (tmp_path / "data_split.json").write_text(json.dumps(content))
    splits, warnings = read_released_splits(tmp_path / "data_split.json", {"a", "b", "c", "d"})
    assert splits == {"train": ("a", "b"), "val": ("c",), "test": ("d",)}
    assert warnings == ()
    assert patients_for_testing(splits) == {"d"}


def test_a_released_patient_who_is_not_there_is_a_warning(tmp_path):
    (tmp_path / "data_split.json").write_text('{"train": ["a", "z"]}')
    _, warnings = read_released_splits(tmp_path / "data_split.json", {"a"})
    assert warnings == ("data_split.json: z, of the split train, is not in the data",)


@pytest.mark.parametrize("text", ["[1, 2]", "{}", '{"train": []}', "not JSON"])
def test_a_file_without_splits_is_refused(tmp_path, text):
    (tmp_path / "data_split.json").write_text(text)
    with pytest.raises(InputError, match=r"data_split\.json: .*; expected splits by name, each a list of patients"):
        read_released_splits(tmp_path / "data_split.json", {"a"})
