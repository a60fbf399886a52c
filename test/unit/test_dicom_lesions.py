"""Lesions outlined in DICOM: segmentations and structure sets, ours and others', on the voxels of a scan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from longilesion.case import Scan
from longilesion.dicom.segmentation import read_segments
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.images import read_lesion_map, read_scan
from test.dicom_series import write_series

SHAPE_ZYX = (8, 24, 30)
SPACING_ZYX_MM = (2.5, 0.75, 0.75)


def scan() -> Scan:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE_ZYX).astype(np.int16)
    return Scan(hu=hu, grid=Grid.from_spacing(SHAPE_ZYX, SPACING_ZYX_MM, origin_xyz_mm=(-10.0, 20.0, 30.0)))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_series(tmp_path / "ct", scan())
    return tmp_path / "ct"


def box(*starts_stops: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE_ZYX, bool)
    mask[tuple(slice(*pair) for pair in starts_stops)] = True
    return mask


def write_seg(
    path: Path,
    series: Path,
    masks: Sequence[np.ndarray],
    *,
    labels: Sequence[str] | None = None,
    categories: Mapping[int, object] | None = None,
    fractional: bool = False,
    changed: Mapping[str, object] | None = None,
) -> None:
    """A segmentation as another program writes it, on the images in the order of their places."""
    images = sorted(map(pydicom.dcmread, series.iterdir()), key=lambda image: image.ImagePositionPatient[2])
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=(labels or [f"S{k}" for k in range(1, len(masks) + 1)])[number - 1],
            segmented_property_category=(categories or {}).get(number, codes.SCT.Tissue),
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            tracking_id=f"T{number}",
            tracking_uid=f"1.2.3.{number}",
        )
        for number in range(1, len(masks) + 1)
    ]
    dataset = hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.stack(masks, axis=-1).astype(np.float32 if fractional else np.uint8),
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="another",
        manufacturer_model_name="program",
        software_versions="1",
        device_serial_number="1",
    )
    for name, value in (changed or {}).items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def write_structures(
    path: Path,
    contours: Mapping[str, Sequence[np.ndarray]],
    *,
    kinds: Mapping[str, str] | None = None,
    frame_of_reference_uid: str = "",
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality = "RTSTRUCT"
    rois, drawn, observed = [], [], []
    for number, (name, polygons) in enumerate(contours.items(), start=1):
        roi, lines, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame_of_reference_uid
        lines.ReferencedROINumber, lines.ContourSequence = number, []
        for polygon in polygons:
            line = Dataset()
            line.ContourGeometricType, line.NumberOfContourPoints = "CLOSED_PLANAR", len(polygon)
            line.ContourData = [f"{value:.9g}" for value in np.ravel(polygon)]
            lines.ContourSequence.append(line)
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = (kinds or {}).get(name, "")
        rois.append(roi)
        drawn.append(lines)
        observed.append(observation)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = rois, drawn
    dataset.RTROIObservationsSequence = observed
    dataset.save_as(path, enforce_file_format=True)


def polygon(grid: Grid, z: float, corners_yx: Sequence[tuple[float, float]]) -> np.ndarray:
    """A contour through fractional voxel indices, in LPS mm."""
    return np.array([grid.world_xyz_mm((z, y, x)) for y, x in corners_yx])


def square(grid: Grid, z: float, low: float, high: float) -> np.ndarray:
    return polygon(grid, z, [(low, low), (low, high), (high, high), (high, low)])


def lesions(path: Path, series: Path) -> np.ndarray:
    read = read_scan(series)
    return read_lesion_map(path, like=read.grid, identity=read.identity).ids


# ------------------------------------------------------------------------------------------------------- segmentation


def test_sparse_and_overlapping_segments(tmp_path: Path, series: Path, caplog: pytest.LogCaptureFixture) -> None:
    large, small, apart = box((1, 6), (2, 12), (2, 12)), box((3, 4), (8, 14), (8, 14)), box((0, 1), (20, 22), (20, 29))
    apart |= box((7, 8), (20, 22), (20, 29))
    write_seg(tmp_path / "seg.dcm", series, [large, small, apart])
    expected = np.zeros(SHAPE_ZYX, np.uint16)
    expected[large], expected[small], expected[apart] = 1, 2, 3
    np.testing.assert_array_equal(lesions(tmp_path / "seg.dcm", series), expected)
    assert "16 voxels in more than one segment" in caplog.text


def test_fractional_segment_begins_at_one_half(tmp_path: Path, series: Path) -> None:
    share = np.zeros(SHAPE_ZYX, np.float32)
    share[2:5, 3:9, 3:9] = 1.0
    share[2:5, 3:9, 9] = 0.6
    share[2:5, 3:9, 10] = 0.4
    write_seg(tmp_path / "seg.dcm", series, [share], fractional=True)
    np.testing.assert_array_equal(lesions(tmp_path / "seg.dcm", series) == 1, share >= 0.5)


def test_segment_is_found_on_a_scan_with_other_voxels(tmp_path: Path, series: Path) -> None:
    """The same scan, its axes flipped, swapped, and twice as fine."""
    mask = box((2, 6), (4, 12), (6, 20))
    write_seg(tmp_path / "seg.dcm", series, [mask])
    grid = read_scan(series).grid
    flipped = grid.lattice(start_zyx=(7, 23, 29), step_zyx=(-1, -1, -1), shape_zyx=SHAPE_ZYX)
    found = read_lesion_map(tmp_path / "seg.dcm", like=flipped).ids
    np.testing.assert_array_equal(found[::-1, ::-1, ::-1] == 1, mask)
    fine = grid.lattice(start_zyx=(-0.25,) * 3, step_zyx=(0.5,) * 3, shape_zyx=(16, 48, 60))
    volume = np.count_nonzero(read_lesion_map(tmp_path / "seg.dcm", like=fine).ids) / 8
    # On the finer grid the corners of the box are rounded by interpolation.
    assert volume == pytest.approx(mask.sum(), rel=0.05)


def test_lesions_are_taken_from_among_organs(tmp_path: Path, series: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    organ, lesion = box((0, 8), (0, 20), (0, 20)), box((2, 4), (4, 8), (4, 8))
    abnormal = {2: codes.SCT.MorphologicallyAbnormalStructure}
    write_seg(tmp_path / "seg.dcm", series, [organ, lesion], labels=["liver", "tumour"], categories=abnormal)
    np.testing.assert_array_equal(lesions(tmp_path / "seg.dcm", series), 2 * lesion)
    assert "segments left out as no lesions: liver" in caplog.text


def test_ids_are_the_numbers_of_labels_that_all_name_a_lesion(tmp_path: Path, series: Path) -> None:
    masks = [box((1, 3), (2, 5), (2, 5)), box((4, 6), (2, 5), (2, 5))]
    write_seg(tmp_path / "seg.dcm", series, masks, labels=["lesion 12", "lesion 4"])
    np.testing.assert_array_equal(np.unique(lesions(tmp_path / "seg.dcm", series)), [0, 4, 12])
    write_seg(tmp_path / "seg.dcm", series, masks, labels=["lesion 12", "lesion 12"])
    np.testing.assert_array_equal(np.unique(lesions(tmp_path / "seg.dcm", series)), [0, 1, 2])
    assert [segment.tracking_uid for segment in read_segments(tmp_path / "seg.dcm")] == ["1.2.3.1", "1.2.3.2"]


def test_segmentation_of_another_frame_of_reference_is_refused(tmp_path: Path, series: Path) -> None:
    write_seg(tmp_path / "seg.dcm", series, [box((1, 3), (2, 5), (2, 5))], changed={"FrameOfReferenceUID": "1.2.3"})
    with pytest.raises(InputError, match=r"seg.dcm: segmentation of another frame of reference than its scan's"):
        lesions(tmp_path / "seg.dcm", series)


def test_segment_outside_the_scan_is_refused(tmp_path: Path, series: Path) -> None:
    write_seg(tmp_path / "seg.dcm", series, [box((1, 3), (2, 5), (2, 5)), box((6, 8), (2, 5), (2, 5))])
    lower = read_scan(series).grid.window((0, 0, 0), (4, 24, 30))
    with pytest.raises(InputError, match="segments outside the scan: S2"):
        read_lesion_map(tmp_path / "seg.dcm", like=lower)


def test_folder_with_two_segmentations_or_none_is_refused(tmp_path: Path, series: Path) -> None:
    folder = tmp_path / "segs"
    folder.mkdir()
    write_seg(folder / "a.dcm", series, [box((1, 3), (2, 5), (2, 5))])
    assert lesions(folder, series).any()
    write_seg(folder / "b.dcm", series, [box((1, 3), (2, 5), (2, 5))])
    with pytest.raises(InputError, match=r"2 segmentations or structure sets: a.dcm, b.dcm; expected one"):
        lesions(folder, series)
    with pytest.raises(InputError, match="0 segmentations or structure sets; expected one"):
        lesions(series, series)


def test_damaged_segmentation_is_refused(tmp_path: Path, series: Path) -> None:
    write_seg(tmp_path / "seg.dcm", series, [box((1, 3), (2, 5), (2, 5))])
    data = (tmp_path / "seg.dcm").read_bytes()
    (tmp_path / "seg.dcm").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"seg.dcm"):
        lesions(tmp_path / "seg.dcm", series)


DCMQI = [
    ("liver.dcm", "liver_seg.nrrd"),
    ("23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd"),
    ("24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd"),
]


@pytest.mark.parametrize(("seg", "mask"), DCMQI)
def test_another_programs_segmentations_equal_its_own_masks(real_ct: Path, seg: str, mask: str) -> None:
    folder = real_ct.parent / "dicom" / "dcmqi"
    if not folder.is_dir():
        pytest.skip(f"no DICOM in {folder}")
    image = sitk.ReadImage(str(folder / mask))
    grid = Grid.from_spacing(
        image.GetSize()[::-1],
        image.GetSpacing()[::-1],
        origin_xyz_mm=image.GetOrigin(),
        direction=image.GetDirection(),
    )
    found = read_lesion_map(folder / seg, like=grid).ids
    np.testing.assert_array_equal(found > 0, sitk.GetArrayFromImage(image) > 0)


# -------------------------------------------------------------------------------------------------------- structure set


@given(
    corners=st.lists(st.tuples(st.floats(1, 22), st.floats(1, 28)), min_size=3, max_size=9, unique=True),
    z=st.integers(0, 7),
)
def test_contour_is_filled_as_the_even_odd_rule_says(
    tmp_path_factory: pytest.TempPathFactory, corners: list[tuple[float, float]], z: int
) -> None:
    path = tmp_path_factory.mktemp("rt") / "rt.dcm"
    grid = scan().grid
    write_structures(path, {"GTV": [polygon(grid, z, corners)]})
    # By the winding of the polygon seen from each pixel's centre: an independent way to the same answer.
    y, x = (axis.astype(float) for axis in np.indices(SHAPE_ZYX[1:]))
    inside = np.zeros(SHAPE_ZYX[1:], bool)
    for (y0, x0), (y1, x1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    if not inside.any():
        with pytest.raises(InputError, match="covers no voxel"):
            read_lesion_map(path, like=grid)
        return
    found = read_lesion_map(path, like=grid).ids
    # Corners are rounded to nine digits in the file: pixels on an edge may fall to either side.
    assert np.count_nonzero((found[z] == 1) != inside) <= 1
    assert not np.delete(found, z, axis=0).any()


def test_contour_within_another_is_a_hole(tmp_path: Path) -> None:
    grid = scan().grid
    write_structures(tmp_path / "rt.dcm", {"GTV": [square(grid, 3, 1.5, 12.5), square(grid, 3, 4.5, 7.5)]})
    found = read_lesion_map(tmp_path / "rt.dcm", like=grid).ids[3] == 1
    assert found.sum() == 11 * 11 - 3 * 3
    assert not found[5:8, 5:8].any()


def test_slices_between_contours_take_the_nearest(tmp_path: Path) -> None:
    """Contours on every second slice, the scan twice as thin."""
    grid = scan().grid
    write_structures(tmp_path / "rt.dcm", {"GTV": [square(grid, z, 3.5, 9.5 + z) for z in (1, 3, 5)]})
    found = (read_lesion_map(tmp_path / "rt.dcm", like=grid).ids == 1).sum((1, 2))
    assert found.tolist()[1] == 7 * 7
    assert found.tolist()[3] == 9 * 9
    assert found.tolist()[5] == 11 * 11
    assert (found[[0, 2, 4, 6]] > 0).all()
    assert found[7] == 0


def test_organs_and_the_body_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    grid = scan().grid
    contours = {name: [square(grid, 2, 1.5 + k, 8.5)] for k, name in enumerate(("BODY", "Liver", "GTV 1"))}
    write_structures(tmp_path / "rt.dcm", contours, kinds={"BODY": "EXTERNAL", "Liver": "ORGAN", "GTV 1": "GTV"})
    assert np.unique(read_lesion_map(tmp_path / "rt.dcm", like=grid).ids).tolist() == [0, 3]
    assert "regions left out as no lesions: BODY, Liver" in caplog.text


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        ({}, "structure set without closed contours"),
        ({"A": [polygon(scan().grid, 203, [(2, 2), (2, 20), (20, 20)])]}, "A lies outside the scan"),
        (
            {"A": [np.array([scan().grid.world_xyz_mm(p) for p in ((1, 2, 2), (4, 9, 2), (6, 9, 9))])]},
            "across 6.0 slices",
        ),
    ],
)
def test_structures_that_cannot_be_filled_are_refused(
    tmp_path: Path, contours: dict[str, list[np.ndarray]], message: str
) -> None:
    write_structures(tmp_path / "rt.dcm", contours)
    with pytest.raises(InputError, match=re.escape(message)):
        read_lesion_map(tmp_path / "rt.dcm", like=scan().grid)


def test_structures_of_another_frame_of_reference_are_refused(tmp_path: Path, series: Path) -> None:
    grid = scan().grid
    write_structures(tmp_path / "rt.dcm", {"GTV": [square(grid, 2, 2.5, 8.5)]}, frame_of_reference_uid="1.2.3")
    with pytest.raises(InputError, match="structure set of another frame of reference"):
        lesions(tmp_path / "rt.dcm", series)


def test_lesions_in_dicom_need_their_scan(tmp_path: Path, series: Path) -> None:
    write_seg(tmp_path / "seg.dcm", series, [box((1, 3), (2, 5), (2, 5))])
    with pytest.raises(InputError, match="read only on the voxels of its scan"):
        read_lesion_map(tmp_path / "seg.dcm")
