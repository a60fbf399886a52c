"""A small source of synthetic pairs with a tumour, and pairs drawn from it, made once for all tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import count, islice

import numpy as np
from scipy.ndimage import gaussian_filter

from longilesion.geometry import Grid
from test.unit.builders import ball
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.sources import Source, real_lesions, source_of

GRID = Grid.from_spacing((60, 90, 90), (3.0, 2.0, 2.0))
TUMOUR_HU, TUMOUR_RADIUS_MM = 160, 15.0


@cache
def block() -> Source:
    """18 cm of soft tissue with uneven HU, a lung, fat and a spine."""
    generator = np.random.default_rng(0)
    hu = 50 + 25 * gaussian_filter(generator.normal(size=GRID.shape_zyx), 4.0) / 0.02
    hu = np.clip(hu, 20, 90)
    hu[:, :8], hu[:, -8:] = -100, -100
    hu[10:50, 20:50, 15:40] = -850
    hu[:, 60:75, 40:52] = 500
    hu[:, :2] = hu[:, -2:] = hu[:, :, :2] = hu[:, :, -2:] = -1000
    return source_of("block", hu.round().astype(np.int16), GRID)


@cache
def block_with_tumour() -> Source:
    """The same with a dense ball that an expert outlined."""
    source = block()
    centre_xyz_mm = (130.0, 80.0, 90.0)
    mask = ball(GRID, centre_xyz_mm, TUMOUR_RADIUS_MM)
    hu = source.hu.copy()
    hu[mask] = TUMOUR_HU
    lesions = real_lesions(mask.astype(np.uint16), source.spacing_zyx_mm)
    return replace(source, name="block with tumour", hu=hu, lesions=lesions)


@cache
def pair(seed: int) -> SyntheticPair:
    """A pair, of even seeds around the tumour or elsewhere in its volume."""
    source = block_with_tumour() if seed % 2 == 0 else block()
    return synthetic_pair(source, np.random.default_rng(seed), shapes=[source])


@cache
def tumour_pairs() -> tuple[SyntheticPair, ...]:
    """Two pairs that show the tumour."""
    source = block_with_tumour()
    drawn = (synthetic_pair(source, np.random.default_rng((1, seed)), shapes=[source]) for seed in count())
    shown = (pair for pair in drawn if any(fact.real for fact in pair.facts.values()))
    return tuple(islice(shown, 2))
