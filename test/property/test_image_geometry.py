"""Where voxels lie by what is read, against nibabel (NIfTI) and ITK (MetaImage, NRRD), and by what is written."""

from __future__ import annotations

import gzip
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from longilesion.case import AIR_HU, HIGHEST_PADDING_HU, PADDING_HU, LesionMap
from longilesion.errors import InputError
from longilesion.images import read_lesion_map, read_scan, write_lesion_map
from test.property.geometries import directions, numbers, triples

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE_XYZ = (5, 4, 3)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def affines(draw: st.DrawFn, *, shear: float = 0.005) -> NDArray[np.float64]:
    """Oblique, flipped, permuted, anisotropic, sheared a little, rounded or not."""
    columns = draw(directions(tilt_deg=40.0)) @ (np.eye(3) + np.triu(np.ones((3, 3)), 1) * draw(numbers(-shear, shear)))
    affine = np.eye(4)
    affine[:3, :3] = columns.round(draw(st.sampled_from([3, 6, 16]))) * draw(triples(0.4, 6.0))
    affine[:3, 3] = draw(triples(-1500.0, 1500.0))
    return affine


@st.composite
def nifti_images(draw: st.DrawFn) -> nib.Nifti1Image:
    """Any codes, forms that agree or not, either version and byte order, any scaling."""
    kind = draw(st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))
    header = kind.header_class(endianness=draw(st.sampled_from("<>")))
    header.set_data_dtype(draw(st.sampled_from([np.int16, np.uint16, np.float32])))
    sform, other = draw(affines()), draw(affines())
    codes = draw(st.sampled_from([(0, 0), (1, 0), (2, 0), (0, 1), (0, 4), (1, 1), (2, 1), (3, 5)]))
    image = kind(np.arange(60).reshape(SHAPE_XYZ).astype(header.get_data_dtype()), None, header)
    image.header.set_qform(draw(st.sampled_from([sform, other])), codes[1])
    image.header.set_sform(sform, codes[0])
    if codes[0] and draw(st.booleans()):
        image.header["pixdim"][1:4] = draw(triples(0.1, 9.0))
    image.header["xyzt_units"] = draw(st.sampled_from([0, 2, 10]))
    return image


def saved(image: nib.Nifti1Image, path: Path, scaling: tuple[float, float] | None = None) -> Path:
    """Writes the header as it stands, which nibabel's own writing would mend."""
    header, stored = image.header.copy(), np.asanyarray(image.dataobj)
    header["scl_slope"], header["scl_inter"] = scaling or (1, 0)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    content = header.binaryblock + bytes(4) + stored.astype(header.get_data_dtype()).tobytes(order="F")
    path.write_bytes(content)
    return path


def assert_at_the_same_places(grid_from_voxel, expected, index_xyz) -> None:
    spacing = np.linalg.norm(expected[:3, :3], axis=0).min()
    place, true = grid_from_voxel @ [*index_xyz, 1], expected @ [*index_xyz, 1]
    assert np.linalg.norm(place - true) < 1e-4 * spacing + 1e-9


@given(nifti_images(), triples(0.0, 511.0))
def test_nifti_lies_where_nibabel_has_it(image, index_xyz):
    with folder() as work:
        path = saved(image, work / "scan.nii")
        expected = nib.load(path)
        scan = read_scan(path)
        assert_at_the_same_places(scan.grid.world_from_voxel, LPS_FROM_RAS @ expected.affine, index_xyz)
        np.testing.assert_array_equal(scan.hu, np.asanyarray(expected.dataobj).T)


@given(
    st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd"]),
    st.lists(st.tuples(st.integers(0, 560), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
)
def test_overwritten_header_is_read_or_refused(suffix, changes):
    with folder() as work:
        path = work / f"scan{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros(SHAPE_XYZ[::-1], np.int16)), str(path))
        content = path.read_bytes()
        content = bytearray(gzip.decompress(content) if suffix == ".nii.gz" else content)
        for position, replacement in changes:
            content[position : position + len(replacement)] = replacement
        path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        with suppress(InputError):
            assert read_scan(path).hu.size > 0


@given(affines(), triples(0.0, 511.0), st.sampled_from([(1, 1000.0), (3, 0.001)]))
def test_other_spatial_units_are_converted(affine, index_xyz, unit):
    code, mm_per_unit = unit
    stored = affine.copy()
    stored[:3] /= mm_per_unit
    with folder() as work:
        image = nib.Nifti1Image(np.zeros(SHAPE_XYZ, np.int16), stored)
        image.header["xyzt_units"] = code
        grid = read_scan(saved(image, work / "scan.nii")).grid
        exact = image.header.get_sform().astype(np.float64)
        exact[:3] *= mm_per_unit
        assert_at_the_same_places(grid.world_from_voxel, LPS_FROM_RAS @ exact, index_xyz)


@given(
    st.sampled_from([np.int16, np.uint8, np.uint16, np.int32, np.float32, np.float64]),
    st.one_of(st.just(0.0), st.just(np.nan), st.just(np.inf), st.just(1.0), numbers(0.01, 3.0), numbers(-3.0, -0.01)),
    st.one_of(st.just(0.0), st.just(-1024.0), numbers(-2000.0, 500.0)),
)
def test_nifti_values_are_scaled_as_nibabel_does(dtype, slope, intercept):
    with folder() as work:
        image = nib.Nifti1Image(np.arange(60).reshape(SHAPE_XYZ).astype(dtype), np.eye(4))
        path = saved(image, work / "scan.nii", (slope, intercept))
        values = np.asanyarray(nib.load(path).dataobj).astype(np.float64).T
        expected = np.where(values <= HIGHEST_PADDING_HU, PADDING_HU, np.clip(values, AIR_HU, None))
        np.testing.assert_allclose(read_scan(path).hu, expected, atol=0.5001)


def set_geometry(image, affine):
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())


@given(affines(), triples(0.0, 511.0), st.sampled_from([".mha", ".mhd", ".nrrd"]))
def test_other_formats_lie_where_itk_has_them(affine, index_xyz, suffix):
    with folder() as work:
        image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(SHAPE_XYZ[::-1]))
        set_geometry(image, affine)
        path = work / f"scan{suffix}"
        sitk.WriteImage(image, str(path))
        read = sitk.ReadImage(str(path))
        place = read.TransformContinuousIndexToPhysicalPoint(index_xyz)
        assert read_scan(path).grid.world_xyz_mm(index_xyz[::-1]) == pytest.approx(place, abs=1e-6)


@given(affines(), triples(0.0, 511.0), st.sampled_from(["right-anterior-superior", "LAS", "left-posterior-superior"]))
def test_nrrd_of_another_space_lies_where_itk_has_it(affine, index_xyz, space):
    vectors = " ".join("({})".format(",".join(f"{x:.17g}" for x in column)) for column in affine[:3, :3].T)
    lines = (
        *("NRRD0004", "type: short", "dimension: 3", f"space: {space}", "sizes: 5 4 3", f"space directions: {vectors}"),
        *("kinds: domain domain domain", "endian: little", "encoding: raw"),
        "space origin: ({})".format(",".join(f"{x:.17g}" for x in affine[:3, 3])),
    )
    with folder() as work:
        path = work / "scan.nrrd"
        path.write_bytes("\n".join(lines).encode() + b"\n\n" + np.arange(60, dtype="<i2").tobytes())
        place = sitk.ReadImage(str(path)).TransformContinuousIndexToPhysicalPoint(index_xyz)
        assert read_scan(path).grid.world_xyz_mm(index_xyz[::-1]) == pytest.approx(place, abs=1e-6)


@given(nifti_images(), st.sampled_from([".nii", ".nii.gz"]))
def test_map_has_both_forms_of_its_scan_to_the_bit(image, suffix):
    with folder() as work:
        path = saved(image, work / "scan.nii")
        ids = (np.arange(60) % 7).reshape(SHAPE_XYZ[::-1]).astype(np.uint16)
        write_lesion_map(work / f"out{suffix}", LesionMap(ids=ids, grid=read_scan(path).grid), like=path)
        scan, written = nib.load(path), nib.load(work / f"out{suffix}")
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), ids.T)
        assert written.header["xyzt_units"] == scan.header["xyzt_units"]
        for form in ("get_sform", "get_qform"):
            (one, one_code), (other, other_code) = (getattr(file.header, form)(coded=True) for file in (scan, written))
            assert one_code == other_code
            if one is not None:
                np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(scan.affine, written.affine)


@given(affines(), st.sampled_from([".mha", ".nrrd"]), triples(0.0, 2.0))
def test_nifti_map_of_another_formats_scan_lies_on_it_by_both_forms(affine, suffix, index_xyz):
    with folder() as work:
        image = sitk.GetImageFromArray(np.zeros(SHAPE_XYZ[::-1], np.int16))
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        set_geometry(image, affine)
        path = work / f"scan{suffix}"
        sitk.WriteImage(image, str(path))
        grid = read_scan(path).grid
        ids = np.zeros(grid.shape_zyx, np.uint16)
        write_lesion_map(work / "out.nii.gz", LesionMap(ids=ids, grid=grid), like=path)
        written = nib.load(work / "out.nii.gz").header
        forms = [form for form, code in (written.get_sform(coded=True), written.get_qform(coded=True)) if code]
        assert len(forms) > 0
        for form in forms:
            apart = np.subtract((LPS_FROM_RAS @ form @ [*index_xyz, 1])[:3], grid.world_xyz_mm(index_xyz[::-1]))
            assert np.linalg.norm(apart) < 0.1 * spacing.min()


@given(affines(), st.sampled_from([".mha", ".nrrd"]), triples(0.0, 2.0))
def test_map_of_a_nifti_scan_in_another_format_lies_on_it(affine, suffix, index_xyz):
    with folder() as work:
        path = saved(nib.Nifti1Image(np.zeros(SHAPE_XYZ, np.int16), affine), work / "scan.nii")
        grid = read_scan(path).grid
        ids = np.zeros(grid.shape_zyx, np.uint16)
        write_lesion_map(work / f"out{suffix}", LesionMap(ids=ids, grid=grid), like=path)
        place = sitk.ReadImage(str(work / f"out{suffix}")).TransformContinuousIndexToPhysicalPoint(index_xyz)
        assert place == pytest.approx(grid.world_xyz_mm(index_xyz[::-1]), abs=1e-4)
        assert read_lesion_map(work / f"out{suffix}", like=grid).grid is grid


# ------------------------------------------------------------------------------------- what contradicts or is too much


def affine_of(spacing_xyz_mm=(0.8, 0.8, 3.0)) -> NDArray[np.float64]:
    return np.diag([*spacing_xyz_mm, 1.0])


def with_pixdim(image):
    image.header["pixdim"][1:4] = 1


def with_moved_qform(image):
    moved = affine_of()
    moved[:3, 3] += (20, -15, 10)
    image.header.set_qform(moved, 1)


def without_forms(image):
    image.header["sform_code"] = image.header["qform_code"] = 0


def with_invalid_qform(image):
    image.header["quatern_b"] = 3.0
    image.header["qform_code"] = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_pixdim, "voxels of 1 x 1 x 1 by pixdim, 0.8 x 0.8 x 3 by the sform; the sform is taken"),
        (with_moved_qform, "sform and qform place a voxel up to 33.7 voxels apart; the sform is taken"),
        (with_invalid_qform, "its qform is invalid; the sform is taken"),
        (without_forms, "neither sform nor qform; its place, and which side is left, are a guess"),
    ],
)
def test_contradiction_in_a_header_is_said_once(tmp_path, caplog, change, said):
    image = nib.Nifti1Image(np.zeros(SHAPE_XYZ, np.int16), affine_of())
    change(image)
    path = saved(image, tmp_path / "scan.nii")
    with caplog.at_level(logging.WARNING):
        grid = read_scan(path).grid
        ids = np.zeros(grid.shape_zyx, np.uint16)
        write_lesion_map(tmp_path / "out.nii", LesionMap(ids=ids, grid=grid), like=path)
    assert caplog.messages == [f"{path}: {said}"]


def test_header_without_contradiction_is_silent(tmp_path, caplog):
    path = saved(nib.Nifti1Image(np.zeros(SHAPE_XYZ, np.int16), affine_of()), tmp_path / "scan.nii")
    read_scan(path)
    assert caplog.messages == []


@pytest.mark.parametrize(("unit", "named"), [(1, "metre"), (3, "micrometre"), (5, "unknown spatial unit 5")])
def test_unit_that_makes_no_ct_of_it_is_refused(tmp_path, unit, named):
    image = nib.Nifti1Image(np.zeros(SHAPE_XYZ, np.int16), affine_of())
    image.header["xyzt_units"] = unit
    with pytest.raises(InputError, match=named):
        read_scan(saved(image, tmp_path / "scan.nii"))


@given(directions(), triples(0.4, 6.0), numbers(0.05, 2.0), st.sampled_from([".nii", ".mha", ".nrrd"]))
def test_strong_shear_is_refused_with_the_remedy(direction, spacing, shear, suffix):
    sheared = direction @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
    with folder() as work:
        path = work / f"scan{suffix}"
        if suffix == ".nii":
            affine = np.eye(4)
            affine[:3, :3] = sheared * spacing
            saved(nib.Nifti1Image(np.zeros(SHAPE_XYZ, np.int16), affine), path)
        else:
            image = sitk.GetImageFromArray(np.zeros(SHAPE_XYZ[::-1], np.int16))
            image.SetSpacing(spacing)
            image.SetDirection((sheared / np.linalg.norm(sheared, axis=0)).ravel().tolist())
            sitk.WriteImage(image, str(path))
        with pytest.raises(InputError, match=r"resample it .* gantry tilt"):
            read_scan(path)
