import gzip
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from longilesion.case import AIR_HU, PADDING_HU, LesionMap
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.images import read_lesion_map, read_scan, write_lesion_map
from test.unit.case_folders import SHAPE_ZYX, lesion_ids, soft_tissue, write_image

FLIPPED = np.diag([-1.0, -1.0, 1.0])
NOISY = np.array([[1.0, 3e-8, 0.0], [-3e-8, 1.0, 1e-9], [0.0, 0.0, 1.0]])


def oblique() -> np.ndarray:
    rotation, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))
    return rotation


def header(path: Path) -> tuple[float, ...]:
    image = sitk.ReadImage(str(path))
    return (*image.GetSize(), *image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())


def truncated(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def noise(dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(3).integers(-900, 900, (12, 30, 40)).astype(dtype)


def sheared_nifti(path: Path, shear: float) -> Path:
    """A NIfTI file whose sform maps x, y, z to x + shear * y, y, 2.5 z (RAS), as only other software writes them."""
    write_image(path, soft_tissue(), compressed=False)
    data = bytearray(path.read_bytes())
    struct.pack_into("<2h", data, 252, 0, 2)
    struct.pack_into("<12f", data, 280, 1, shear, 0, 10, 0, 1, 0, 20, 0, 0, 2.5, 30)
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------------------------------------------------- scans


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nii", ".nii.gz", ".nrrd"])
def test_every_format_gives_the_same_scan(tmp_path: Path, suffix: str) -> None:
    hu = noise()
    origin, spacing = (-250.5, 31.25, 900.0), (0.75, 0.5, 3.0)
    path = write_image(tmp_path / f"scan{suffix}", hu, spacing_xyz_mm=spacing, origin_xyz_mm=origin, direction=FLIPPED)
    scan = read_scan(path)
    assert scan.hu.dtype == np.int16
    np.testing.assert_array_equal(scan.hu, hu)
    expected = Grid.from_spacing((12, 30, 40), spacing[::-1], origin_xyz_mm=origin, direction=FLIPPED)
    assert scan.grid.matches(expected, tolerance_mm=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_wider_types_are_rounded_to_hounsfield_units(tmp_path: Path, dtype: type) -> None:
    values = soft_tissue().astype(dtype)
    values[0, 0, :3] = [39.6, 70000, -40000] if np.issubdtype(dtype, np.floating) else [40, 70000, -40000]
    scan = read_scan(write_image(tmp_path / "scan.mha", values))
    assert scan.hu[0, 0, :3].tolist() == [40, 32767, PADDING_HU]


def test_unsigned_scan_beyond_int16_does_not_wrap_around(tmp_path: Path) -> None:
    values = np.full(SHAPE_ZYX, 65535, np.uint16)
    assert read_scan(write_image(tmp_path / "scan.mha", values)).hu.max() == 32767


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize(
    ("stored", "read"),
    [(-3024, PADDING_HU), (-2048, PADDING_HU), (-1500, PADDING_HU), (-1499, AIR_HU), (-1025, AIR_HU), (-1023, -1023)],
)
def test_padding_beyond_the_field_of_view_is_kept_apart_from_air(
    tmp_path: Path, dtype: type, stored: int, read: int
) -> None:
    hu = soft_tissue()
    hu[:, 0] = stored
    scan = read_scan(write_image(tmp_path / "scan.mha", hu.astype(dtype)))
    assert (scan.hu[:, 0] == read).all()
    np.testing.assert_array_equal(scan.hu[:, 1:], hu[:, 1:])


def test_reading_leaves_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nifti = write_image(tmp_path / "scan.nii.gz", soft_tissue())
    grid = read_scan(nifti).grid
    write_lesion_map(tmp_path / "out.mha", LesionMap(ids=lesion_ids({}), grid=grid), like=nifti)
    assert capfd.readouterr().err == ""


def test_voxels_outlive_the_reader(tmp_path: Path) -> None:
    scans = [read_scan(write_image(tmp_path / f"{k}.mha", np.full((20, 64, 64), k, np.int16))) for k in range(5)]
    assert [int(scan.hu.min()) for scan in scans] == [int(scan.hu.max()) for scan in scans] == list(range(5))


@pytest.mark.parametrize("direction", [FLIPPED, oblique(), np.eye(3)[[1, 2, 0]], NOISY])
def test_any_orthonormal_direction_is_exact(tmp_path: Path, direction: np.ndarray) -> None:
    path = write_image(tmp_path / "scan.mha", soft_tissue(), spacing_xyz_mm=(0.7, 0.8, 3), direction=direction)
    image = sitk.ReadImage(str(path))
    index_xyz = (3.0, 1.5, 4.25)
    world = image.TransformContinuousIndexToPhysicalPoint(index_xyz)
    np.testing.assert_allclose(read_scan(path).grid.world_xyz_mm(index_xyz[::-1]), world, atol=1e-5)


def test_slightly_sheared_direction_leaves_the_voxels_where_the_file_has_them(tmp_path: Path) -> None:
    direction = np.eye(3)
    direction[0, 1] = 0.004
    grid = read_scan(write_image(tmp_path / "scan.mha", soft_tissue(), direction=direction)).grid
    np.testing.assert_allclose(grid.world_from_voxel[:3, :3], direction * (1, 1, 2.5), atol=1e-12)


@pytest.mark.parametrize("shear", [0.0003, 0.0005, 0.004, 0.015])
def test_slightly_sheared_nifti_is_not_turned(tmp_path: Path, shear: float) -> None:
    grid = read_scan(sheared_nifti(tmp_path / "scan.nii", shear)).grid
    # Right and anterior are positive in the file, left and posterior in a grid.
    np.testing.assert_allclose(grid.world_from_voxel[:2], [[-1, -shear, 0, -10], [0, -1, 0, -20]], atol=1e-6)


def test_gzip_file_of_several_members_is_complete(tmp_path: Path) -> None:
    data = write_image(tmp_path / "scan.nii", noise(), compressed=False).read_bytes()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    np.testing.assert_array_equal(read_scan(path).hu, noise())


@pytest.mark.parametrize("suffix", [".MHA", ".Nii", ".NII.GZ", ".NRRD"])
def test_suffix_in_any_case(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"scan{suffix.lower()}", noise())
    path = path.rename(tmp_path / f"other{suffix}")
    np.testing.assert_array_equal(read_scan(path).hu, noise())
    write_lesion_map(tmp_path / f"out{suffix}", LesionMap(ids=lesion_ids({4: (1, 2, 3)}), grid=grid()), like=path)
    assert read_lesion_map(tmp_path / f"out{suffix}").ids.max() == 4


@pytest.mark.parametrize(("name", "compressed"), [("scan.nii", True), ("scan.nii.gz", False)])
def test_nifti_whose_suffix_is_wrong_about_its_compression(tmp_path: Path, name: str, compressed: bool) -> None:
    source = write_image(tmp_path / f"source{'.nii.gz' if compressed else '.nii'}", noise(), compressed=compressed)
    np.testing.assert_array_equal(read_scan(source.rename(tmp_path / name)).hu, noise())


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz", ".nrrd"])
def test_series_of_one_time_point_is_a_scan(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    frame = sitk.GetImageFromArray(noise())
    frame.SetSpacing((0.5, 0.75, 2.0))
    frame.SetOrigin((3.0, 4.0, 5.0))
    sitk.WriteImage(sitk.JoinSeries([frame]), str(path))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.hu, noise())
    assert scan.grid.matches(Grid.from_spacing((12, 30, 40), (2.0, 0.75, 0.5), origin_xyz_mm=(3, 4, 5)))
    write_lesion_map(tmp_path / "out.mha", LesionMap(ids=noise().clip(0).astype(np.uint16), grid=scan.grid), like=path)
    assert read_lesion_map(tmp_path / "out.mha", like=scan.grid).ids.max() > 0


@pytest.mark.parametrize("big_endian", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_uncompressed_metaimage_of_either_byte_order(tmp_path: Path, dtype: str, big_endian: bool) -> None:
    hu = noise().clip(0) // 4
    path = write_image(tmp_path / "scan.mha", hu.astype(dtype), compressed=False)
    if big_endian:
        start = path.read_bytes()[: -hu.size * np.dtype(dtype).itemsize]
        start = start.replace(b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = True")
        path.write_bytes(start + hu.astype(f">{dtype}").tobytes())
    np.testing.assert_array_equal(read_scan(path).hu, hu)
    np.testing.assert_array_equal(read_scan(path).hu, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


# Only of uncompressed voxels it is known where they begin.
@pytest.mark.parametrize(("compressed", "skipped"), [(True, "16"), (False, "16"), (False, "-1")])
def test_metaimage_whose_voxels_stand_behind_another_header(tmp_path: Path, compressed: bool, skipped: str) -> None:
    path = write_image(tmp_path / "scan.mhd", noise(), compressed=compressed)
    data = next(tmp_path.glob("scan.*raw"))
    data.write_bytes(bytes(16) + data.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile", f"HeaderSize = {skipped}\nElementDataFile".encode()))
    np.testing.assert_array_equal(read_scan(path).hu, noise())


# --------------------------------------------------------------------------------------------------------- bad scans


def one_line_error(path: Path, error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert "expected" in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.mha"
    with pytest.raises(InputError, match="no such file") as error:
        read_scan(path)
    one_line_error(path, error)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.mha"
    path.mkdir()
    with pytest.raises(InputError, match="a folder without DICOM files; expected an image file") as error:
        read_scan(path)
    one_line_error(path, error)


def test_file_of_an_unknown_format(tmp_path: Path) -> None:
    path = tmp_path / "scan.jpg"
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match="unknown image format") as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize("name", ["scan.mha", "scan.nii", "scan.nii.gz", "scan.nrrd"])
@pytest.mark.parametrize("content", [b"", b"this is no image " * 100])
def test_file_that_is_no_image(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nii", ".nii.gz", ".nrrd"])
def test_truncated_file(tmp_path: Path, suffix: str, compressed: bool, share: float) -> None:
    path = write_image(tmp_path / f"scan{suffix}", noise(), compressed=compressed)
    truncated(path if suffix != ".mhd" else next(tmp_path.glob("scan.*raw")), share)
    with pytest.raises(InputError, match=r"truncated|unreadable") as error:
        read_scan(path)
    one_line_error(path.with_suffix("") if suffix == ".mhd" else path, error)


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz", ".nrrd"])
def test_damage_in_compressed_voxels_is_noticed(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_image(tmp_path / f"scan{suffix}", noise())
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(byte ^ 0x5A for byte in data[middle : middle + 8])
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged") as error:
        read_scan(path)
    one_line_error(path, error)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["scan.mha", "scan.nii.gz", "scan.nrrd"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "an empty file"),
        (bytes(128) + b"DICM" + bytes(500), "DICOM file without a SOPClassUID, cut off or damaged"),
        (b"PK\x03\x04" + bytes(500), "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
    ],
)
def test_file_that_is_something_else_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=named) as error:
        read_scan(path)
    one_line_error(path, error)


def test_image_under_the_suffix_of_another_format(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.mha", noise()).rename(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="a MetaImage, not the image that its suffix promises") as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize("name", ["IM0001", "slice.dcm"])
def test_folder_of_dicom_files_without_the_packages_says_which_is_missing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the container, which does without them."""
    (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(500))
    for module in [each for each in sys.modules if each.startswith("longilesion.dicom.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("longilesion.dicom.reading", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"DICOM, for which the package pydicom is missing here") as error:
        read_scan(tmp_path)
    one_line_error(tmp_path, error)


@pytest.mark.parametrize("suffix", [".hdr", ".img"])
def test_half_of_a_pair_of_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(bytes(348))
    with pytest.raises(InputError, match="convert the pair") as error:
        read_scan(path)
    one_line_error(path, error)


def test_tiff_is_not_read_as_it_has_no_geometry(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.tif", noise())
    with pytest.raises(InputError, match="unknown image format, a TIFF picture") as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize("missing", ["NDims", "DimSize", "ElementType", "ElementDataFile"])
def test_metaimage_without_an_entry(tmp_path: Path, missing: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_image(tmp_path / "scan.mha", soft_tissue(), compressed=False)
    path.write_bytes(path.read_bytes().replace(missing.encode(), b"Comment", 1))
    with pytest.raises(InputError, match=missing) as error:
        read_scan(path)
    one_line_error(path, error)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".mha", ".nii"])
def test_header_that_promises_far_more_than_the_file_holds(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"scan{suffix}", soft_tissue(), compressed=False)
    data = bytearray(path.read_bytes())
    if suffix == ".nii":
        struct.pack_into("<3h", data, 42, 30000, 30000, 30000)
    else:
        data = data.replace(b"DimSize = 12 10 6", b"DimSize = 30000 30000 30000")
    path.write_bytes(data)
    with pytest.raises(InputError, match="truncated image") as error:
        read_scan(path)
    one_line_error(path, error)


def test_header_without_its_data_file(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.mhd", noise(), compressed=False)
    (tmp_path / "scan.raw").unlink()
    with pytest.raises(InputError, match=r"its voxels are missing; expected them in .*scan\.raw") as error:
        read_scan(path)
    one_line_error(path, error)


def test_plane_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.mha", soft_tissue()[0])
    with pytest.raises(InputError, match="2D image; expected a 3D volume") as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_time_series(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    frame = sitk.GetImageFromArray(soft_tissue())
    sitk.WriteImage(sitk.JoinSeries([frame, frame]), str(path))
    with pytest.raises(InputError, match="4D image of 2 time points; expected a 3D volume") as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_colour_or_vector_image(tmp_path: Path, dtype: type) -> None:
    path = write_image(tmp_path / "scan.mha", np.zeros((*SHAPE_ZYX, 3), dtype), is_vector=True)
    with pytest.raises(InputError, match="3 values per voxel") as error:
        read_scan(path)
    one_line_error(path, error)


def test_complex_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.nii", np.zeros(SHAPE_ZYX, np.complex64))
    with pytest.raises(InputError, match="complex") as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scan_with_nan_voxels(tmp_path: Path, value: float) -> None:
    hu = soft_tissue().astype(np.float32)
    hu[3, 4, 5] = value
    path = write_image(tmp_path / "scan.mha", hu)
    with pytest.raises(InputError, match="NaN") as error:
        read_scan(path)
    one_line_error(path, error)


def test_strongly_sheared_direction(tmp_path: Path) -> None:
    direction = np.eye(3)
    direction[0, 1] = 0.3
    path = write_image(tmp_path / "scan.mha", soft_tissue(), direction=direction)
    with pytest.raises(InputError, match=r"off orthonormal .* resample it .* gantry tilt") as error:
        read_scan(path)
    one_line_error(path, error)


def test_strongly_sheared_nifti(tmp_path: Path) -> None:
    path = sheared_nifti(tmp_path / "scan.nii", 0.3)
    with pytest.raises(InputError, match="off orthonormal") as error:
        read_scan(path)
    one_line_error(path, error)


@pytest.mark.parametrize(
    ("entry", "found"),
    [("TransformMatrix", "0 0 0 0 1 0 0 0 1"), ("ElementSpacing", "1 1 0"), ("DimSize", "12 0 6")],
)
def test_impossible_header(tmp_path: Path, entry: str, found: str) -> None:
    path = write_image(tmp_path / "scan.mha", soft_tissue(), compressed=False)
    lines = path.read_bytes().split(b"\n")
    lines = [f"{entry} = {found}".encode() if line.startswith(entry.encode()) else line for line in lines]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError) as error:
        read_scan(path)
    one_line_error(path, error)


# ------------------------------------------------------------------------------------------- one process, many threads


def test_reading_in_threads_loses_nothing_of_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = [write_image(tmp_path / f"scan{suffix}", noise()) for suffix in (".mha", ".nii.gz", ".nrrd")]
    bad = truncated(write_image(tmp_path / "bad.mha", noise()))

    def read(number: int) -> None:
        os.write(2, f"before {number}\n".encode())
        read_scan(good[number % 3])
        with pytest.raises(InputError):
            read_scan(bad)
        os.write(2, f"after {number}\n".encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(40)))
    expected = [f"{word} {number}" for number in range(40) for word in ("before", "after")]
    assert sorted(capfd.readouterr().err.splitlines()) == sorted(expected)


def test_importing_and_reading_changes_nothing_outside(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.nii.gz", noise())
    code = f"""
import os, sys
from pathlib import Path
import SimpleITK as sitk
before = dict(os.environ), sitk.ProcessObject.GetGlobalWarningDisplay()
from longilesion.images import read_scan
assert "nibabel" not in sys.modules
assert (dict(os.environ), sitk.ProcessObject.GetGlobalWarningDisplay()) == before
read_scan(Path({str(path)!r}))
assert (dict(os.environ), sitk.ProcessObject.GetGlobalWarningDisplay()) == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------------- masks


def grid(**geometry: object) -> Grid:
    return Grid.from_spacing(SHAPE_ZYX, (2.5, 1.0, 1.0), **geometry)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_mask_of_any_type_holds_ids(tmp_path: Path, dtype: type) -> None:
    ids = lesion_ids({1: (0, 0, 0), 200: (3, 4, 5)})
    lesions = read_lesion_map(write_image(tmp_path / "mask.mha", ids.astype(dtype)), like=grid())
    assert lesions.ids.dtype == np.uint16
    np.testing.assert_array_equal(lesions.ids, ids)


def test_mask_takes_over_the_grid_of_its_scan(tmp_path: Path) -> None:
    path = write_image(tmp_path / "mask.nii.gz", lesion_ids({}), origin_xyz_mm=(0.0, 0.0004, 0.3))
    like = grid()
    assert read_lesion_map(path, like=like).grid is like


def test_mask_of_another_size_than_its_scan(tmp_path: Path) -> None:
    path = write_image(tmp_path / "mask.mha", lesion_ids({}, (6, 10, 13)))
    with pytest.raises(InputError, match="13 x 10 x 6 voxels; expected 12 x 10 x 6") as error:
        read_lesion_map(path, like=grid())
    one_line_error(path, error)


@pytest.mark.parametrize(
    "geometry",
    [{"origin_xyz_mm": (0, 0, 2.5)}, {"spacing_xyz_mm": (1.2, 1, 2.5)}, {"direction": FLIPPED}],
)
def test_mask_with_other_geometry_than_its_scan(tmp_path: Path, geometry: dict[str, object]) -> None:
    path = write_image(tmp_path / "mask.mha", lesion_ids({}), **geometry)
    with pytest.raises(InputError, match="another origin, spacing or direction") as error:
        read_lesion_map(path, like=grid())
    one_line_error(path, error)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.float32, 0.5), (np.float32, np.nan), (np.int16, -1), (np.int32, 65536), (np.float64, np.inf)],
)
def test_mask_with_values_that_are_no_ids(tmp_path: Path, dtype: type, value: float) -> None:
    ids = lesion_ids({1: (0, 0, 0)}).astype(dtype)
    ids[3, 3, 3] = value
    path = write_image(tmp_path / "mask.mha", ids)
    with pytest.raises(InputError) as error:
        read_lesion_map(path, like=grid())
    one_line_error(path, error)


# ----------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("source", [".mha", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("direction", [np.eye(3), FLIPPED, oblique(), NOISY, np.eye(3)[[2, 0, 1]]])
def test_output_geometry_is_equal_to_the_last_bit(tmp_path: Path, direction: np.ndarray, source: str) -> None:
    generator = np.random.default_rng(5)
    scan_file = write_image(
        tmp_path / f"scan{source}",
        soft_tissue(),
        spacing_xyz_mm=generator.uniform(0.5, 5, 3),
        origin_xyz_mm=generator.uniform(-1500, 1500, 3),
        direction=direction,
    )
    lesion_map = LesionMap(ids=lesion_ids({3: (1, 2, 3)}), grid=read_scan(scan_file).grid)
    write_lesion_map(tmp_path / "out.mha", lesion_map, like=scan_file)
    # ITK straightens a NIfTI's axes, which have 32 bits.
    np.testing.assert_allclose(
        header(tmp_path / "out.mha"), header(scan_file), atol=2e-7 if source == ".nii.gz" else 0, rtol=0
    )


def test_output_of_a_sheared_scan_repeats_its_header(tmp_path: Path) -> None:
    direction = np.eye(3)
    direction[0, 1] = 0.004
    scan_file = write_image(tmp_path / "scan.mha", soft_tissue(), direction=direction)
    write_lesion_map(
        tmp_path / "out.mha", LesionMap(ids=lesion_ids({}), grid=read_scan(scan_file).grid), like=scan_file
    )
    assert header(tmp_path / "out.mha") == header(scan_file)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_other_output_formats_keep_the_geometry_to_their_precision(tmp_path: Path, suffix: str) -> None:
    scan_file = write_image(tmp_path / f"scan{suffix}", soft_tissue(), direction=oblique(), origin_xyz_mm=(9, 8, 700))
    lesion_map = LesionMap(ids=lesion_ids({3: (1, 2, 3)}), grid=read_scan(scan_file).grid)
    write_lesion_map(tmp_path / f"out{suffix}", lesion_map, like=scan_file)
    np.testing.assert_allclose(header(tmp_path / f"out{suffix}"), header(scan_file), atol=1e-6)
    back = read_lesion_map(tmp_path / f"out{suffix}", like=lesion_map.grid)
    np.testing.assert_array_equal(back.ids, lesion_map.ids)


@pytest.mark.parametrize(
    ("lesion_id", "pixel"), [(255, sitk.sitkUInt8), (256, sitk.sitkUInt16), (300, sitk.sitkUInt16)]
)
def test_id_over_255_widens_the_output_and_does_not_wrap(tmp_path: Path, lesion_id: int, pixel: int) -> None:
    scan_file = write_image(tmp_path / "scan.mha", soft_tissue())
    lesion_map = LesionMap(ids=lesion_ids({lesion_id: (1, 2, 3)}), grid=grid())
    write_lesion_map(tmp_path / "out.mha", lesion_map, like=scan_file)
    image = sitk.ReadImage(str(tmp_path / "out.mha"))
    assert image.GetPixelID() == pixel
    assert set(np.unique(sitk.GetArrayFromImage(image)).tolist()) == {0, lesion_id}


def test_output_is_compressed(tmp_path: Path) -> None:
    scan_file = write_image(tmp_path / "scan.mha", soft_tissue((50, 64, 64)))
    like = read_scan(scan_file).grid
    write_lesion_map(tmp_path / "out.mha", LesionMap(ids=lesion_ids({}, (50, 64, 64)), grid=like), like=scan_file)
    assert (tmp_path / "out.mha").stat().st_size < 2000


@pytest.mark.parametrize("name", ["out.jpg", "out", "out.mhd"])
def test_output_of_an_unknown_format(tmp_path: Path, name: str) -> None:
    scan_file = write_image(tmp_path / "scan.mha", soft_tissue())
    with pytest.raises(InputError, match="unknown image format") as error:
        write_lesion_map(tmp_path / name, LesionMap(ids=lesion_ids({}), grid=grid()), like=scan_file)
    one_line_error(tmp_path / name, error)
    assert not (tmp_path / name).exists()
