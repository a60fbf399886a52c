"""A small liver beside a spine, in a block of fat, as the host of synthetic exams; made once for all tests."""

from __future__ import annotations

from functools import cache

import numpy as np

from longilesion.geometry import Grid
from test.unit.builders import ball
from training.synthesis.liver_host import LiverHost, liver_host
from training.synthesis.sources import Source

GRID = Grid.from_spacing((26, 40, 44), (5.0, 4.0, 4.0))
LIVER_HU, VESSEL_HU, FAT_HU = 110, 160, -100


@cache
def small_source(liver_hu: int = LIVER_HU) -> Source:
    """The liver is a ball with a straight vessel in it."""
    hu = np.full(GRID.shape_zyx, FAT_HU, np.int16)
    liver = ball(GRID, (75.0, 70.0, 65.0), 45.0)
    hu[liver] = liver_hu
    hu[:, 16:18, 16:19][liver[:, 16:18, 16:19]] = liver_hu + VESSEL_HU - LIVER_HU
    hu[:, 30:38, 30:36] = 400
    noise = np.random.default_rng(0).normal(0, 4, hu.shape)
    return Source(
        name="small",
        hu=(hu + noise).round().astype(np.int16),
        spacing_zyx_mm=np.array(GRID.spacing_zyx_mm, np.float32),
        sites={},
        organs={"liver": liver},
    )


@cache
def small_host() -> LiverHost:
    """The host of that source."""
    return liver_host(small_source())
