"""The same points written in every format and encoding are read as the same places."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.geometry import Grid
from test.property.geometries import grids

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
FORMATS = ("points", "markups LPS", "markups RAS", "markups by number", "csv voxels", "csv mm", "csv RAS")


def content(kind: str, points: dict[int, tuple[float, float, float]], grid: Grid, delimiter: str) -> str:
    """The points, given as x, y, z voxel indices, as one of the formats has them."""
    lps = {number: grid.world_xyz_mm(point[::-1]) for number, point in points.items()}
    ras = {number: (-x, -y, z) for number, (x, y, z) in lps.items()}
    if kind == "points":
        return json.dumps({"points": [{"name": f"Lesion {n}", "point": list(p)} for n, p in points.items()]})
    if kind.startswith("markups"):
        places, system = (ras, 0) if kind.endswith("number") else (lps, "LPS") if kind.endswith("LPS") else (ras, "RAS")
        placed = [{"id": str(n), "label": f"F-{n}", "position": list(p)} for n, p in places.items()]
        nowhere = {"id": "9", "label": "", "position": [0, 0, 0], "positionStatus": "undefined"}
        nodes = [
            {"type": "Fiducial", "coordinateSystem": system, "coordinateUnits": "mm", "controlPoints": part}
            for part in (placed[:1], [nowhere, *placed[1:]])
        ]
        return json.dumps({"@schema": "markups-schema-v1.0.3", "markups": nodes})
    suffix, places = {"csv voxels": ("", points), "csv mm": ("_mm", lps), "csv RAS": ("_ras", ras)}[kind]
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter)
    table.writerow(["id", *(axis + suffix for axis in "xyz")])
    table.writerows([number, *map(repr, place)] for number, place in places.items())
    return text.getvalue()


@st.composite
def clicked_grids(draw: st.DrawFn) -> tuple[Grid, dict[int, tuple[float, float, float]]]:
    grid = draw(grids(sides=(2, 300)))
    ids = draw(st.lists(st.integers(1, 65535), min_size=1, max_size=4, unique=True))
    inside = st.tuples(*(st.floats(0.0, size - 1.0) for size in grid.shape_zyx[::-1]))
    return grid, {number: draw(inside) for number in ids}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("points")


@given(clicked_grids(), st.sampled_from(FORMATS), st.sampled_from(ENCODINGS), st.sampled_from(",;\t"), st.booleans())
def test_points_of_every_format_and_encoding_are_the_same_places(
    folder: Path,
    clicked: tuple[Grid, dict[int, tuple[float, float, float]]],
    kind: str,
    encoding: str,
    delimiter: str,
    is_required: bool,
) -> None:
    grid, points = clicked
    path = folder / ("points.csv" if kind.startswith("csv") else "points.mrk.json")
    path.write_bytes(content(kind, points, grid, delimiter).encode(encoding))
    pairs = read_click_pairs(
        baseline=[],
        followup=[ClickFile(path=path, scan_name="primary", grid=grid)],
        may_lack_points=not is_required,
    )
    assert [pair.lesion_id for pair in pairs] == sorted(points)
    for pair in pairs:
        assert pair.followup is not None
        expected = grid.world_xyz_mm(points[pair.lesion_id][::-1])
        np.testing.assert_allclose(pair.followup.point_xyz_mm, expected, rtol=0, atol=1e-6)
