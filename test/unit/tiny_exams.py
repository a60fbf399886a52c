"""A few tiny exams of a drawn liver, prepared once for all tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from scipy.ndimage import gaussian_filter

from longilesion.geometry import Grid
from test.unit.builders import ball
from test.unit.case_folders import write_image
from training.preparation.prepared import PreparedData, read_prepared
from training.preparation.run import Options, prepare
from training.preparation.synthetic import find_synthetic
from training.synthesis.settings import LifenetSettings, LifenetSize, SynthesisSettings

GRID = Grid.from_spacing((32, 56, 56), (4.0, 3.0, 3.0))
LIVER_RADIUS_MM = 45.0
SETTINGS = SynthesisSettings(
    generator="lifenet",
    lifenet=LifenetSettings(
        organs=("liver",),
        healthy_share=0.4,
        large=LifenetSize(probability=1.0, radius_mm=12, count=(2, 2), elastic_sigma=(0.5, 0.6)),
        **{
            name: LifenetSize(probability=0.0, radius_mm=10, count=(1, 1), elastic_sigma=(0.5, 0.6))
            for name in ("tiny", "small", "medium")
        },
        only_followup_share=0.5,
    ),
)


def write_livers(folder: Path, count: int) -> Path:
    """Volumes of a body of fat with a liver in it, whose mask is beside them."""
    for number in range(count):
        generator = np.random.default_rng(number)
        uneven = gaussian_filter(generator.normal(size=GRID.shape_zyx), 1.5) * 60
        hu = np.full(GRID.shape_zyx, -1000.0)
        hu[:, 3:-3, 3:-3] = -90 + uneven[:, 3:-3, 3:-3]
        centre = np.add(GRID.centre_xyz_mm, (4.0 * number, -5.0, 3.0))
        liver = ball(GRID, centre, LIVER_RADIUS_MM)
        hu[liver] = 110 + uneven[liver]
        hu[ball(GRID, np.add(centre, (55.0, 30.0, 20.0)), 14.0)] = 400
        for name, voxels in (("ct", hu.round().astype(np.int16)), ("organs/liver", liver.astype(np.uint8))):
            write_image(folder / f"volume_{number}" / f"{name}.nii.gz", voxels, spacing_xyz_mm=(3.0, 3.0, 4.0))
    return folder


@cache
def tiny_exams() -> PreparedData:
    """Six exams of two livers, a liver per fold, healthy ones among them."""
    folder = Path(mkdtemp(prefix="exams"))
    source = find_synthetic(
        write_livers(folder / "ct", 2), cases=6, phantoms=1, seed=0, settings=SETTINGS, whole=True, organ="liver"
    )
    prepare(source, Options(output=folder / "exams", name="exams", folds=2, workers=1))
    return read_prepared(folder / "exams")
