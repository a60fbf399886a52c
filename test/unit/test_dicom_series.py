"""Scans written as DICOM series with what archives do to them, read again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from longilesion.case import PADDING_HU, LesionMap, Scan
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.images import open_image, read_lesion_map, read_scan, write_lesion_map
from test.dicom_series import of_patient, write_multiframe, write_series

SHAPE_ZYX = (6, 20, 24)
SMALL_ZYX = (4, 10, 12)


def scan(
    seed: int = 0,
    *,
    shape_zyx: tuple[int, int, int] = SHAPE_ZYX,
    direction: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (2.5, 0.75, 0.75),
) -> Scan:
    hu = np.random.default_rng(seed).integers(-1000, 1500, shape_zyx).astype(np.int16)
    grid = Grid.from_spacing(shape_zyx, spacing, origin_xyz_mm=(-120.5, 31.25, 910.0), direction=direction)
    return Scan(hu=hu, grid=grid)


def ramp(grid: Grid) -> Scan:
    """Intensities that grow linearly along every world axis: linear interpolation gives them exactly."""
    index = np.indices(grid.shape_zyx).reshape(3, -1)[::-1]
    world = grid.world_from_voxel[:3, :3] @ index + grid.world_from_voxel[:3, 3:]
    return Scan(
        hu=np.rint(20 * world[0] + 30 * world[1] + 10 * world[2]).reshape(grid.shape_zyx).astype(np.int16), grid=grid
    )


def assert_equal(read: Scan, expected: Scan) -> None:
    assert read.grid.matches(expected.grid, tolerance_mm=1e-4)
    np.testing.assert_array_equal(read.hu, expected.hu)


@given(angles=st.tuples(*[st.floats(-1, 1)] * 3), seed=st.integers(0, 9), slope=st.sampled_from([1.0, 2.0, 0.5]))
def test_oblique_series_in_names_without_order_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, angles: tuple[float, float, float], seed: int, slope: float
) -> None:
    a, b, c = angles
    turns = [
        np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]),
        np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]),
        np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]),
    ]
    written = scan(seed, shape_zyx=SMALL_ZYX, direction=turns[0] @ turns[1] @ turns[2])
    written.hu[:] = np.rint(written.hu / slope) * slope
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, written, slope=slope)
    assert_equal(read_scan(folder), written)
    shutil.rmtree(folder)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_series_is_read_as_it_was(tmp_path: Path, syntax: UID) -> None:
    # JPEG 2000 wants a few pixels.
    written = scan(shape_zyx=(3, 48, 64))
    write_series(tmp_path, written, syntax=syntax)
    assert_equal(read_scan(tmp_path), written)


def test_jpeg_lossless_as_another_program_writes_it_is_read(tmp_path: Path) -> None:
    gdcm = pytest.importorskip("gdcm")
    write_series(tmp_path / "raw", scan())
    (tmp_path / "jpeg").mkdir()
    for file in (tmp_path / "raw").iterdir():
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetFileName(str(tmp_path / "jpeg" / file.name))
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert_equal(read_scan(tmp_path / "jpeg"), scan())


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, HTJ2K, HTJ2KLossless])
def test_a_decoder_is_there_for_what_no_test_can_write(syntax: UID) -> None:
    assert get_decoder(syntax).is_available


def test_multiframe_file_with_frames_in_reverse_and_slopes_of_their_own(tmp_path: Path) -> None:
    written = scan()
    written.hu[1::2] = written.hu[1::2] // 2 * 2
    write_multiframe(tmp_path / "ct.dcm", written)
    assert_equal(read_scan(tmp_path / "ct.dcm"), written)
    assert_equal(read_scan(tmp_path), written)


def test_values_of_padding_are_padding_but_not_where_tissue_has_them(tmp_path: Path) -> None:
    def padded(index: int, dataset: Dataset) -> None:
        dataset.add_new("PixelPaddingValue", "US", 0 if index < 3 else 1024)

    written = scan()
    written.hu[:, 0] = -1024
    written.hu[:, 1] = 0
    write_series(tmp_path, written, changed=padded)
    read = read_scan(tmp_path)
    assert (read.hu[:3, 0] == PADDING_HU).all()
    assert (read.hu[3:, 0] == -1024).all()
    # A header that calls water padding.
    assert (read.hu[:, 1] == 0).all()


def test_localizer_dose_report_and_text_beside_a_series_are_passed_over(tmp_path: Path) -> None:
    visit = write_series(tmp_path, scan())

    def localizer(index: int, dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def report(index: int, dataset: Dataset) -> None:
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del dataset.ImagePositionPatient

    write_series(tmp_path / "scout", scan(3), visit=visit, changed=localizer)
    write_series(tmp_path / "dose", scan(4), visit={**visit, "SeriesInstanceUID": generate_uid()}, changed=report)
    (tmp_path / "README.txt").write_text("not DICOM")
    assert_equal(read_scan(tmp_path), scan())


def test_copies_of_images_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path, scan())
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "0002", tmp_path / "again" / "0002")
    assert_equal(read_scan(tmp_path), scan())
    assert "1 copies of images left out" in caplog.text


def test_of_several_series_one_is_chosen_by_number_or_uid(tmp_path: Path) -> None:
    first = write_series(tmp_path / "a", scan(1))
    second = write_series(tmp_path / "b", scan(2), visit=of_patient(SeriesNumber=5, SeriesDescription="thin"))
    with pytest.raises(
        InputError, match=r"(?s)2 CT volumes.*1: CT series 2, 'CT body', 6 images of 24 x 20, 2.5 mm apart"
    ) as error:
        read_scan(tmp_path)
    assert "P1" not in str(error.value)
    assert "Jane" not in str(error.value)
    assert_equal(read_scan(tmp_path, series="2"), scan(2))
    assert_equal(read_scan(tmp_path, series=first["SeriesInstanceUID"]), scan(1))
    assert_equal(read_scan(tmp_path, series=second["SeriesInstanceUID"]), scan(2))
    with pytest.raises(InputError, match="no CT volume with the number or UID 3; expected one of"):
        read_scan(tmp_path, series="3")


def test_two_acquisitions_in_one_series_are_told_apart(tmp_path: Path) -> None:
    visit = write_series(tmp_path / "a", scan(1))
    write_series(tmp_path / "b", scan(2), visit={**visit, "AcquisitionNumber": 2})
    with pytest.raises(InputError, match=r"(?s)acquisition 1.*acquisition 2"):
        read_scan(tmp_path)
    assert_equal(read_scan(tmp_path, series="2"), scan(2))
    with pytest.raises(InputError, match="2 volumes with the number or UID"):
        read_scan(tmp_path, series=visit["SeriesInstanceUID"])


def test_two_images_at_one_position_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    visit = write_series(tmp_path / "a", scan(1))
    write_series(tmp_path / "b", scan(2), visit=visit)
    with pytest.raises(InputError, match="two images of one acquisition at one position"):
        read_scan(tmp_path)


@pytest.mark.parametrize("missing", [1, 4])
def test_one_missing_slice_is_interpolated_with_a_warning(
    tmp_path: Path, missing: int, caplog: pytest.LogCaptureFixture
) -> None:
    written = ramp(scan().grid)
    write_series(tmp_path, written, left_out=[missing])
    read = read_scan(tmp_path)
    assert "1 missing slice (5 mm between" in caplog.text
    assert read.grid.matches(written.grid, tolerance_mm=1e-4)
    np.testing.assert_allclose(read.hu, written.hu, atol=1)


@pytest.mark.parametrize(("missing", "spacing"), [([2, 3], 2.5), ([3], 6.0)])
def test_more_than_can_be_made_up_is_refused(tmp_path: Path, missing: list[int], spacing: float) -> None:
    write_series(tmp_path, scan(spacing=(spacing, 0.75, 0.75)), left_out=missing)
    with pytest.raises(InputError, match=r"slices missing \(.* mm between \d+ and \d+, usually"):
        read_scan(tmp_path)


def test_varying_distances_are_resampled_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = Grid.from_spacing((7, 20, 24), (1.25, 0.75, 0.75), origin_xyz_mm=(-12.5, 3.25, 91.0))
    written = ramp(grid)
    write_series(tmp_path, written, left_out=[1, 3])
    read = read_scan(tmp_path)
    assert "distances of 1.25 to 2.5 mm between slices, resampled to 1.25 mm" in caplog.text
    assert read.grid.matches(grid, tolerance_mm=1e-4)
    np.testing.assert_allclose(read.hu, written.hu, atol=1)


@given(tilt=st.floats(-0.5, 0.5))
def test_tilted_gantry_is_resampled_to_the_places_that_the_headers_say(
    tmp_path_factory: pytest.TempPathFactory, tilt: float
) -> None:
    folder = tmp_path_factory.mktemp("tilted")
    grid = scan(shape_zyx=(4, 20, 12)).grid
    truth = ramp(grid)

    def shifted(index: int) -> tuple[float, float, float]:
        return 0.0, tilt * index * 2.5, 0.0

    # What a scanner measures where the header says that the image is: the ramp, farther along y.
    moved = Scan(
        hu=np.stack([plane + round(30 * shifted(k)[1]) for k, plane in enumerate(truth.hu)]).astype(np.int16), grid=grid
    )
    write_series(folder, moved, shift_xyz_mm=shifted)
    read = read_scan(folder)
    expected = ramp(read.grid)
    inside = read.hu > -1500
    assert inside.mean() > 0.5
    np.testing.assert_allclose(read.hu[inside], expected.hu[inside], atol=16 if tilt else 1)
    shutil.rmtree(folder)


def test_a_shift_that_no_tilt_makes_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, scan(), shift_xyz_mm=lambda index: (4.0 * index, 0, 0))
    with pytest.raises(InputError, match="58 degrees off their normal; expected"):
        read_scan(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"PixelSpacing": ["0", "0.75"]}, "PixelSpacing 0, 0.75"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "expected two unit vectors at a right angle"),
        ({"RescaleType": "OD"}, "pixels in OD"),
        ({"Modality": "MR"}, "no CT volume among MR series"),
        ({"SOPInstanceUID": None}, "without SOPInstanceUID"),
        ({"RescaleSlope": "0"}, "RescaleSlope 0, RescaleIntercept -1024; expected numbers"),
    ],
)
def test_headers_that_do_not_place_an_image_are_refused(
    tmp_path: Path, damage: dict[str, object], message: str
) -> None:
    def damaged(index: int, dataset: Dataset) -> None:
        for name, value in damage.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)

    write_series(tmp_path, scan(), changed=damaged)
    with pytest.raises(InputError, match=message):
        read_scan(tmp_path)


def test_loss_by_compression_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path, scan(), changed=lambda index, dataset: setattr(dataset, "LossyImageCompression", "01"))
    read_scan(tmp_path)
    assert "compressed with loss of information" in caplog.text


@pytest.mark.parametrize("name", ["RescaleSlope", "NumberOfFrames", "PixelSpacing", "ImagePositionPatient"])
def test_text_where_a_number_belongs_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, scan())
    file = tmp_path / "0003"
    dataset = dcmread(file)
    tag = tag_for_keyword(name)
    assert tag is not None
    dataset[tag] = RawDataElement(Tag(tag), dictionary_VR(tag), 4, b"abcd", 0, False, True)
    dataset.save_as(file)
    with pytest.raises(InputError, match="0003"):
        read_scan(tmp_path)


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_truncated_file_is_refused_by_name(tmp_path: Path, share: float) -> None:
    write_series(tmp_path, scan())
    file = tmp_path / "0003"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InputError, match="0003"):
        read_scan(tmp_path)


def test_one_slice_alone_is_no_volume(tmp_path: Path) -> None:
    write_series(tmp_path, scan())
    with pytest.raises(InputError, match=r"no CT volume among CT series 2.*1 image of 24 x 20"):
        read_scan(tmp_path / "0001")


def test_series_of_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.mha").write_bytes(b"ObjectType = Image")
    with pytest.raises(InputError, match="no DICOM, so that series 2 cannot be chosen"):
        open_image(tmp_path / "scan.mha", "2")


def test_lesion_map_with_the_geometry_of_a_series(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", scan(direction=np.diag([-1.0, -1.0, 1.0])))
    grid = read_scan(tmp_path / "ct").grid
    ids = np.zeros(SHAPE_ZYX, np.uint16)
    ids[2, 5:9, 7:9] = 3
    write_lesion_map(tmp_path / "out.nii.gz", LesionMap(ids=ids, grid=grid), like=tmp_path / "ct")
    np.testing.assert_array_equal(read_lesion_map(tmp_path / "out.nii.gz", like=grid).ids, ids)


def test_image_log_names_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write_series(tmp_path / "a", scan(1))
    write_series(tmp_path / "b", scan(2), changed=lambda index, dataset: setattr(dataset, "ImageType", ["LOCALIZER"]))
    read_scan(tmp_path)
    assert "series left aside" in caplog.text
    assert not any(name in caplog.text for name in ("Doe", "P1", "19500101", "20200131"))
