import resource

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from longilesion.case import Baseline, Case, LesionMap, Scan
from longilesion.errors import InputError
from longilesion.evaluation.exam import LesionFact
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam
from longilesion.geometry import Grid
from longilesion.grand_challenge import read_case
from longilesion.images import read_scan
from test.unit.builders import case_of, click
from test.unit.case_folders import files_under, lesion_ids, soft_tissue, write_image
from training.preparation.case_folder import write_case
from training.preparation.patient import CaseContent

OBLIQUE = Rotation.from_euler("xyz", (5, 8, -3), degrees=True).as_matrix()


def scan(shape_zyx, *, origin, direction=None):
    generator = np.random.default_rng(sum(shape_zyx))
    hu = soft_tissue(shape_zyx) + generator.integers(-20, 20, shape_zyx).astype(np.int16)
    grid = Grid.from_spacing(shape_zyx, (2.5, 0.7, 0.7), origin_xyz_mm=origin, direction=direction)
    return Scan(hu=hu, grid=grid)


def outlined(image, lesions):
    return LesionMap(ids=lesion_ids(lesions, image.grid.shape_zyx), grid=image.grid)


def content():
    """Two scans per time point; lesion 300 changes from the primary to the secondary one."""
    before = {
        "primary": scan((6, 10, 12), origin=(1.0, 2.0, 3.0)),
        "secondary": scan((5, 9, 11), origin=(0, 0, -500), direction=np.diag([-1.0, -1.0, 1.0])),
    }
    after = {
        "primary": scan((7, 12, 13), origin=(-7.3, 1 / 3, 99.9), direction=OBLIQUE),
        "secondary": scan((4, 8, 10), origin=(5.0, 5.0, 5.0)),
    }
    world = after["primary"].grid.world_xyz_mm((2.5, 3.5, 4.5))
    case = case_of(
        [
            (1, click(before["primary"].grid.world_xyz_mm((1.5, 2.5, 3.5))), click(world)),
            (300, click(before["primary"].grid.world_xyz_mm((3.0, 5.0, 7.0))), click((8.0, 8.0, 9.0), "secondary")),
            (4, None, click(after["primary"].grid.world_xyz_mm((1.25, 2.0, 3.0)))),
        ],
        followups=after,
        baselines={
            "primary": (before["primary"], outlined(before["primary"], {1: (1, 2, 3), 300: (3, 5, 7)})),
            "secondary": (before["secondary"], outlined(before["secondary"], {})),
        },
    )
    return CaseContent(
        case_id="case",
        patient="patient",
        case=case,
        truth={
            "primary": outlined(after["primary"], {1: (2, 3, 4), 4: (1, 2, 7)}),
            "secondary": outlined(after["secondary"], {300: (1, 2, 3)}),
        },
        facts={
            1: LesionFact(fate="persists", true_id=1, lesion_type="Liver", is_target=True),
            300: LesionFact(fate="persists", true_id=300),
            4: LesionFact(fate="new", true_id=4),
        },
    )


def test_a_case_reads_as_it_was_written(tmp_path):
    was = content()
    write_case(was, tmp_path / "case")
    read, _ = read_case(tmp_path / "case" / "input")
    for name in ("primary", "secondary"):
        for one, other in (
            (was.case.followups[name], read.followups[name]),
            (was.case.baselines[name].scan, read.baselines[name].scan),
        ):
            np.testing.assert_array_equal(one.hu, other.hu)
            assert one.grid.matches(other.grid, tolerance_mm=1e-6)
        np.testing.assert_array_equal(was.case.baselines[name].lesions.ids, read.baselines[name].lesions.ids)
    for one, other in zip(sorted(was.case.clicks, key=lambda pair: pair.lesion_id), read.clicks, strict=True):
        assert other.lesion_id == one.lesion_id
        for before, after in ((one.baseline, other.baseline), (one.followup, other.followup)):
            assert (before is None) == (after is None)
            if before is not None:
                assert after.scan_name == before.scan_name
                assert after.point_xyz_mm == pytest.approx(before.point_xyz_mm, abs=2e-3)


def test_the_evaluation_finds_the_truth_beside_it(tmp_path):
    was = content()
    write_case(was, tmp_path / "case")
    (files,) = find_exams(tmp_path)
    exam, warnings = read_exam(files)
    assert warnings == []
    assert exam.facts == was.facts
    for name, truth in was.truth.items():
        np.testing.assert_array_equal(exam.truth[name].ids, truth.ids)
    assert exam.baseline.keys() == {1, 300}


def test_the_header_of_the_source_file_is_taken_over_to_the_last_bit(tmp_path):
    # The product of spacing and direction cannot be taken apart to the last bit.
    voxels = soft_tissue((5, 6, 7))
    source = write_image(
        tmp_path / "ct.mha",
        voxels,
        spacing_xyz_mm=(0.7, 0.71, 1.1),
        origin_xyz_mm=(0.1, -0.2, 0.3),
        direction=OBLIQUE,
    )
    read = read_scan(source)
    case = Case(baselines={"primary": Baseline.of(read, None)}, followups={"primary": read}, clicks=())
    truth = {"primary": outlined(read, {1: (1, 1, 1)})}
    headers = {"primary-followup-ct": source, "primary-baseline-ct": source}
    write_case(CaseContent(case_id="a", patient="a", case=case, truth=truth, facts={}, headers=headers), tmp_path / "a")
    expected = sitk.ReadImage(str(source))
    files = sorted(tmp_path.glob("a/*/images/*/*.mha"))
    assert len(files) == 3
    for path in files:
        found = sitk.ReadImage(str(path))
        assert found.GetSpacing() == expected.GetSpacing()
        assert found.GetOrigin() == expected.GetOrigin()
        assert found.GetDirection() == expected.GetDirection()
    np.testing.assert_array_equal(
        read_case(tmp_path / "a" / "input")[0].followups["primary"].grid.world_from_voxel, read.grid.world_from_voxel
    )


def test_types_are_as_small_as_the_ids_allow(tmp_path):
    write_case(content(), tmp_path / "case")
    types = {}
    for path in tmp_path.glob("case/*/images/*/*.mha"):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        types[path.parts[-4], path.parts[-2]] = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    assert types["input", "primary-followup-ct"] == "16-bit signed integer"
    assert types["input", "primary-baseline-ct-tumor-lesion-seg"] == "16-bit unsigned integer"
    assert types["truth", "primary-followup-ct-tumor-lesion-seg"] == "8-bit unsigned integer"


def test_a_full_disk_is_an_error_and_leaves_no_half_case(tmp_path):
    # No file may grow over as many bytes: what a full disk looks like to a writer.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_case(content(), tmp_path / "case")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_under(tmp_path) == []


def test_a_case_that_is_there_is_left_as_it_is_and_half_a_one_is_replaced(tmp_path):
    (tmp_path / ".partial-case").mkdir()
    (tmp_path / ".partial-case" / "rest").write_text("of an interrupted run")
    write_case(content(), tmp_path / "case")
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
    (tmp_path / "case" / "truth" / "lesions.json").write_text("{}")
    write_case(content(), tmp_path / "case")
    assert (tmp_path / "case" / "truth" / "lesions.json").read_text() == "{}"
