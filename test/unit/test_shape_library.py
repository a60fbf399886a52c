"""Files of lesion shapes: what is written is read, what is damaged is named, and shapes lie where their type does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from longilesion.errors import InputError
from longilesion.geometry import Grid
from test.unit.builders import ball
from test.unit.case_folders import write_image
from training.shapes import Arguments, make_shapes
from training.synthesis.changes import Site, random_lesion
from training.synthesis.deformation import lattice
from training.synthesis.real_shapes import RealShapes
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import (
    TYPES,
    LibraryShape,
    ShapeLibrary,
    read_shape_library,
    write_shape_library,
)
from training.synthesis.shapes import REACH, shape_of_mask, signed_distance_mm, sphere_radius_mm

SPACING = np.array([2.0, 1.0, 1.0], np.float32)


def library_shape(lesion_type: str = "mixed", size_zyx: tuple[int, int, int] = (4, 6, 8)) -> LibraryShape:
    return LibraryShape.of(np.ones(size_zyx, bool), SPACING, lesion_type)


def library(*types: str) -> ShapeLibrary:
    by_type = {each: [library_shape(each)] for each in types}
    return ShapeLibrary(name="shapes.npz", digest="0" * 64, licence=None, by_type=by_type)


@st.composite
def library_shapes(draw: st.DrawFn) -> LibraryShape:
    mask = draw(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=7)))
    mask.flat[draw(st.integers(0, mask.size - 1))] = True
    spacing = draw(st.tuples(*[st.floats(0.25, 6.0, width=32)] * 3))
    return LibraryShape.of(mask, np.array(spacing, np.float32), draw(st.sampled_from(TYPES)))


# ------------------------------------------------------------------------------------------------------------ files


@settings(max_examples=25)
@given(st.lists(library_shapes(), min_size=1, max_size=4), st.none() | st.text(min_size=1, max_size=20))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[LibraryShape], licence: str | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "shapes.npz"
    # NumPy's strings end before trailing zeros.
    licence = None if licence is None else licence.rstrip("\0") or "-"
    write_shape_library(path, shapes, licence=licence)
    found = read_shape_library(path)
    assert (found.name, found.licence, len(found.shapes)) == ("shapes.npz", licence, len(shapes))
    for lesion_type, read in found.by_type.items():
        written = [shape for shape in shapes if shape.lesion_type == lesion_type]
        for before, after in zip(written, read, strict=True):
            np.testing.assert_array_equal(after.mask, before.mask)
            np.testing.assert_array_equal(after.spacing_zyx_mm, before.spacing_zyx_mm)


def test_names_of_types_in_uls23_are_read_and_contents_tell_files_apart(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, library_shape())
    digests = set()
    for name, read in (("DeepLesion3D", "mixed"), ("lung_nodule", "lung"), ("lymph_node", "lymph node")):
        np.savez(tmp_path / "other.npz", **{**entries, "s0_type": np.array(name)})
        found = read_shape_library(tmp_path / "other.npz")
        assert list(found.by_type) == [read]
        digests.add(found.digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": None}, "no entry n"),
        ({"n": np.array(3)}, "no entry s1_bits"),
        ({"n": np.array(0)}, "n is not the number of shapes"),
        ({"n": np.array([1])}, "n is not the number of shapes"),
        ({"s0_spacing": None}, "no entry s0_spacing"),
        ({"s0_bits": np.zeros(23, np.uint8)}, "expected 24 bytes, for 4 x 6 x 8 voxels"),
        ({"s0_bits": np.zeros(24, np.float32)}, "s0_bits is float32"),
        ({"s0_bits": np.zeros(24, np.uint8)}, "s0_bits has no voxel of a lesion"),
        ({"s0_shape": np.array([4, 6])}, "expected three sizes"),
        ({"s0_shape": np.array([4, -6, -8])}, "expected three sizes"),
        ({"s0_spacing": np.array([1.0, np.nan, 1.0])}, "expected three lengths in mm"),
        ({"s0_spacing": np.array([1.0, 0.0, 1.0])}, "expected three lengths in mm"),
        ({"s0_type": np.array("bones")}, "s0_type is 'bones'; expected one of mixed, bone"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, changed: dict[str, NDArray[Any] | None], message: str) -> None:
    entries = {**entries_of(tmp_path, library_shape()), **changed}
    path = tmp_path / "wrong.npz"
    np.savez(path, **{name: entry for name, entry in entries.items() if entry is not None})
    with pytest.raises(InputError, match=rf"wrong\.npz: .*{message}"):
        read_shape_library(path)


def shortened(content: bytes) -> bytes:
    return content[: len(content) // 2]


def altered(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 0xFF]) + content[61:]


def as_one_array(content: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n\x00"


@pytest.mark.parametrize("change", [shortened, altered, as_one_array, lambda _: b"", lambda _: b"no archive"])
def test_damaged_and_other_files_are_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "shapes.npz"
    write_shape_library(path, [library_shape()])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=r"shapes\.npz: cannot be read .*; expected lesion shapes"):
        read_shape_library(path)
    with pytest.raises(InputError, match="no such file; expected lesion shapes"):
        read_shape_library(tmp_path / "missing.npz")


def entries_of(folder: Path, shape: LibraryShape) -> dict[str, NDArray[Any]]:
    write_shape_library(folder / "entries.npz", [shape])
    with np.load(folder / "entries.npz") as archive:
        return dict(archive)


# ---------------------------------------------------------------------------------------------------------- command


def test_shapes_are_made_of_label_maps_and_joined_with_other_files(tmp_path: Path) -> None:
    grid = Grid.from_spacing((20, 30, 30), (2.0, 1.0, 1.0))
    first, second = ball(grid, (8.0, 8.0, 12.0), 5.0), ball(grid, (20.0, 20.0, 30.0), 4.0)
    for name, ids in (("two", first + 2 * second), ("parts", 7 * (first | second))):
        write_image(tmp_path / f"{name}.nii.gz", ids.astype(np.uint8), spacing_xyz_mm=(1.0, 1.0, 2.0))
    write_shape_library(tmp_path / "old.npz", [library_shape("lung")], licence="CC BY 4.0")
    inputs = tuple(tmp_path / name for name in ("two.nii.gz", "parts.nii.gz", "old.npz"))
    make_shapes(Arguments(inputs=inputs, output=tmp_path / "all.npz", type="bone", licence="own"))
    found = read_shape_library(tmp_path / "all.npz")
    assert found.licence == "CC BY 4.0; own"
    assert {lesion_type: len(shapes) for lesion_type, shapes in found.by_type.items()} == {"bone": 4, "lung": 1}
    volumes = sorted(int(shape.mask.sum()) for shape in found.by_type["bone"])
    assert volumes == sorted(2 * [int(first.sum()), int(second.sum())])


def test_inputs_without_a_lesion_and_unknown_types_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "none.nii.gz", np.zeros((4, 5, 6), np.uint8))
    for changes, message in (
        ({"inputs": (tmp_path / "none.nii.gz",)}, r"none\.nii\.gz: no lesion of 10 voxels"),
        ({"inputs": ()}, "no shapes given"),
        ({"type": "bones"}, "--type bones: expected one of mixed"),
        ({"output": tmp_path / "shapes.txt"}, r"shapes\.txt: no file of shapes"),
    ):
        options: dict[str, Any] = {"inputs": (), "output": tmp_path / "all.npz", **changes}
        with pytest.raises(InputError, match=message):
            make_shapes(Arguments(**options))
    assert not (tmp_path / "all.npz").exists()


# ----------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("half_mm", "spacing"),
    [
        ((6.0, 6.0, 6.0), (5.0, 0.8, 0.8)),
        ((4.0, 9.0, 5.0), (2.0, 1.0, 1.0)),
        ((12.0, 5.0, 5.0), (1.0, 1.0, 1.0)),
        ((3.0, 3.0, 3.0), (3.0, 1.0, 1.0)),
    ],
)
def test_shape_gives_back_its_mask_at_the_masks_own_voxels(
    half_mm: tuple[float, float, float], spacing: tuple[float, float, float]
) -> None:
    axes = [np.arange(-20, 20.1, step) for step in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    outline = sum((part / half) ** 2 for part, half in zip((z, y, x), half_mm, strict=True)) < 1
    inside = np.ix_(*(outline.any(axis=other) for other in ((1, 2), (0, 2), (0, 1))))
    step = np.array(spacing, np.float32)
    # The mask fills its box, as in a file of shapes.
    shape = shape_of_mask(outline[inside], step)
    middle = [float(np.mean(part[outline])) for part in (z, y, x)]
    points = lattice(
        tuple(torch.from_numpy((axis - at).astype(np.float32)) for axis, at in zip(axes, middle, strict=True))
    )
    radius = sphere_radius_mm(outline, step)
    found = signed_distance_mm(shape, points, radius_mm=radius, rotation=np.eye(3)).numpy() < 0
    assert 2 * (found & outline).sum() / (found.sum() + outline.sum()) > 0.9


@given(library_shapes())
@settings(max_examples=20)
def test_shape_has_the_volume_of_its_mask(shape: LibraryShape) -> None:
    distance = shape.shape.distance
    assert np.isfinite(distance.numpy()).all()
    sphere = 4 / 3 * np.pi / (2 * REACH / 31) ** 3
    # Points on the surface of a symmetric shape count on either side.
    assert int((distance < 0).sum()) - 1 <= sphere <= int((distance <= 0).sum()) + 1


# ----------------------------------------------------------------------------------------------------------- places


def test_shapes_lie_where_their_type_lives() -> None:
    full = RealShapes(of_file=library(*TYPES), organs=("left kidney", "liver"))

    def types(**place: Any) -> set[str]:
        return {shape.lesion_type for shape in full.fitting(**place)}

    assert types(tissue="bone") == {"mixed", "bone"}
    assert types(tissue="lung") == {"mixed", "lung"}
    assert types(tissue="fat") == {"mixed"}
    assert types(tissue="fat", is_node=True) == {"lymph node"}
    assert types(tissue="soft", organ="left kidney") == {"mixed", "kidney"}
    # The pancreas has no mask here, the kidney has one.
    assert types(tissue="soft") == {"mixed", "adrenal", "brain", "heart", "pancreas", "spleen"}


def test_painted_lesions_take_shapes_of_their_place_and_their_size_on_request() -> None:
    chosen = SynthesisSettings(real_shape_share=1.0, node_share=1.0, real_size_share=1.0)
    big, small = library_shape("lymph node", (12, 24, 24)), library_shape("mixed", (5, 9, 9))
    found = library()
    shapes = RealShapes(
        of_file=ShapeLibrary(
            name=found.name, digest=found.digest, licence=None, by_type={"lymph node": [big], "mixed": [small]}
        )
    )
    generator = np.random.default_rng(0)
    for tissue, shape in (("fat", big), ("lung", small)):
        site = Site(tissue=tissue, lesion_type="-", centre_zyx_mm=np.zeros(3))
        lesion = random_lesion(generator, site, lesion_id=1, fate="gone", real_shapes=shapes, settings=chosen)
        (part,) = lesion.baseline
        assert torch.equal(part.shape.distance, shape.shape.distance)
        assert part.radius_mm == pytest.approx(shape.radius_mm, rel=0.2)
