"""A torso drawn at random: the background of synthetic pairs where there is no real scan, and of the test cases.

Its proportions are those of an adult, in the frame of `solids`; Hounsfield units are those of the portal venous phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from longilesion.case import Scan
from longilesion.geometry import Grid, Triple, triple
from training.synthesis.painting import Pose, Waves, paint
from training.synthesis.solids import Ellipsoid, Solid, Trunk, Tube

_FAT, _MUSCLE, _LUNG, _GAS, _BONE, _MARROW = -102.0, 58.0, -860.0, -950.0, 480.0, 190.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """One person: solids in painting order, the person's individual displacement, the organs by name."""

    solids: tuple[Solid, ...]
    waves: Waves
    organs: Mapping[str, Ellipsoid]


def torso(generator: np.random.Generator, *, grid: Grid, noise_hu: float = 12.0) -> Scan:
    """The scan of a random person, centred in the grid."""
    anatomy = random_anatomy(generator)
    pose = Pose(middle_xyz_mm=grid.centre_xyz_mm, waves=anatomy.waves)
    return paint(anatomy.solids, grid, pose, generator=generator, noise_hu=noise_hu)


def random_anatomy(generator: np.random.Generator) -> Anatomy:
    """Draws a person."""
    blood = float(generator.uniform(110, 190))
    fat_mm = float(generator.uniform(12, 26))
    trunk = Trunk(
        heights_mm=(-330.0, -200.0, -70.0, 60.0, 170.0, 235.0, 275.0, 330.0),
        half_widths_mm=(172.0, 174.0, 152.0, 162.0, 172.0, 178.0, 85.0, 66.0),
        half_depths_mm=(112.0, 112.0, 106.0, 116.0, 112.0, 88.0, 70.0, 66.0),
        layers=((0.0, 20.0), (2.0, _FAT), (fat_mm, _MUSCLE), (fat_mm + 15.0, _FAT)),
    )
    organs = _organs(generator, blood)
    solids: list[Solid] = [trunk, *_back_muscles()]
    solids += [organs["right lung"], organs["left lung"], *_ribs(trunk, depth_mm=fat_mm + 9.0)]
    for lung, side in ((organs["right lung"], -1.0), (organs["left lung"], 1.0)):
        solids += vessel_tree(lung, (side * 22.0, 12.0, 105.0), generator, radius_mm=5.5, hu=blood * 0.5, generations=5)
    solids += [*_mediastinum(blood), *_spine(), *_pelvis()]
    solids += [*_bowel(generator), organs["spleen"], organs["stomach"]]
    liver = organs["liver"]
    left_lobe = _ball((-8.0, -44.0, 14.0), (66.0, 30.0, 32.0), liver.layers[0][1])
    solids += [_ball((42.0, -52.0, 12.0), (26.0, 12.0, 22.0), _GAS), left_lobe, liver]
    solids += vessel_tree(liver, (-30.0, 5.0, -20.0), generator, radius_mm=6.5, hu=blood * 1.1, generations=3)
    for kidney in (organs["right kidney"], organs["left kidney"]):
        x, y, z = kidney.centre_xyz_mm
        solids += [kidney, _ball((x * 0.85, y, z), (9.0, 10.0, 22.0), _FAT * 0.6)]
    solids += _great_vessels(blood)
    solids += vessel_tree(
        organs["mesentery"], (8.0, 10.0, -90.0), generator, radius_mm=3.5, hu=blood * 0.9, generations=3
    )
    waves = Waves.random(generator, count=5, amplitude_mm=4.0, lengths_mm=(90.0, 250.0))
    return Anatomy(solids=tuple(solids), waves=waves, organs=organs)


def _organs(generator: np.random.Generator, blood: float) -> dict[str, Ellipsoid]:
    """The organs for lesions; the mesentery is the fat between the bowel's loops."""
    places: dict[str, tuple[Triple, Triple, float]] = {
        "right lung": ((-72.0, 2.0, 112.0), (58.0, 76.0, 112.0), _LUNG),
        "left lung": ((74.0, 4.0, 112.0), (54.0, 74.0, 112.0), _LUNG),
        "liver": ((-62.0, -6.0, -2.0), (72.0, 68.0, 70.0), 0.5 * blood + 30.0),
        "spleen": ((92.0, 34.0, 18.0), (30.0, 44.0, 44.0), 0.6 * blood + 30.0),
        "stomach": ((46.0, -30.0, 8.0), (42.0, 36.0, 38.0), 25.0),
        "right kidney": ((-66.0, 46.0, -82.0), (25.0, 24.0, 50.0), blood + 20.0),
        "left kidney": ((66.0, 46.0, -66.0), (25.0, 24.0, 52.0), blood + 20.0),
        "mesentery": ((4.0, -16.0, -140.0), (84.0, 40.0, 78.0), _FAT),
    }
    organs = {}
    for name, (centre, radii, hu) in places.items():
        size = np.array(radii) * generator.normal(1.0, 0.04, 3)
        organs[name] = _ball(triple(np.array(centre) + generator.normal(0, 2.5, 3)), triple(size), hu)
    return organs


def _back_muscles() -> Iterator[Solid]:
    for side in (-1.0, 1.0):
        yield _pipe((side * 32.0, 79.0, -300.0), (side * 30.0, 77.0, 300.0), (19.0, 16.0), _MUSCLE)
        yield _pipe((side * 56.0, 52.0, -210.0), (side * 30.0, 62.0, -20.0), (21.0, 9.0), _MUSCLE)
        yield _pipe((side * 100.0, 62.0, -290.0), (side * 84.0, 68.0, -180.0), (29.0, 20.0), _MUSCLE)


def _ribs(trunk: Trunk, *, depth_mm: float) -> Iterator[Solid]:
    """Ribs from the spine around the chest, descending towards the front, and the breastbone."""
    for number in range(11):
        for side in (0.0, np.pi):
            turn = 1.0 if side == 0.0 else -1.0
            angles = side + turn * np.linspace(1.25, -1.25 if number < 8 else -0.5, 9)
            heights = 212.0 - 23.0 * number - np.linspace(0.0, 62.0, 9)
            points = [
                trunk.surface_xyz_mm(float(angle), float(height), depth_mm=depth_mm)
                for angle, height in zip(angles, heights, strict=True)
            ]
            for start, stop in pairwise(points):
                yield _pipe(start, stop, (5.5, 5.5), _BONE, (2.0, _MARROW))
    front = -float(np.interp(100.0, trunk.heights_mm, trunk.half_depths_mm)) + depth_mm
    yield _pipe((0.0, front, 50.0), (0.0, front + 4.0, 190.0), (8.0, 10.0), _BONE, (2.5, _MARROW))


def _spine() -> Iterator[Solid]:
    yield _pipe((0.0, 60.0, -230.0), (0.0, 60.0, 320.0), (17.0, 15.0), 85.0)
    for z in np.arange(-222.0, 320.0, 29.0).tolist():
        yield _ball((0.0, 60.0, z), (23.0, 18.0, 13.0), _BONE, (2.5, _MARROW))
        yield _pipe((-34.0, 84.0, z), (34.0, 84.0, z), (5.0, 5.0), _BONE, (2.0, _MARROW))
        yield _pipe((0.0, 86.0, z), (0.0, 99.0, z - 12.0), (4.5, 3.5), _BONE)
    yield _pipe((0.0, 83.0, -250.0), (0.0, 83.0, 320.0), (8.0, 9.0), 25.0)


def _pelvis() -> Iterator[Solid]:
    yield _ball((0.0, 74.0, -225.0), (44.0, 17.0, 46.0), _BONE, (3.0, _MARROW))
    for side in (-1.0, 1.0):
        yield _pipe((side * 62.0, 66.0, -180.0), (side * 118.0, -8.0, -185.0), (11.0, 8.0), _BONE, (3.0, _MARROW))
        yield _pipe((side * 62.0, 62.0, -215.0), (side * 112.0, -2.0, -225.0), (11.0, 9.0), _BONE, (3.0, _MARROW))
        yield _ball((side * 98.0, 12.0, -275.0), (28.0, 27.0, 27.0), _BONE, (4.0, _MARROW))
    yield _ball((0.0, -12.0, -262.0), (40.0, 34.0, 30.0), 8.0)


def _mediastinum(blood: float) -> Iterator[Solid]:
    yield _pipe((0.0, 22.0, 40.0), (0.0, 14.0, 215.0), (26.0, 24.0), _FAT)
    yield _ball((26.0, -20.0, 62.0), (54.0, 46.0, 50.0), 60.0, (10.0, blood))
    for side in (-1.0, 1.0):
        yield _pipe((0.0, 16.0, 128.0), (side * 36.0, 18.0, 104.0), (8.0, 6.0), 20.0, (1.5, _GAS))
        yield _pipe((0.0, -2.0, 112.0), (side * 34.0, 6.0, 108.0), (11.0, 8.0), blood)
    yield _pipe((0.0, 16.0, 128.0), (0.0, 14.0, 320.0), (9.5, 9.5), 40.0, (1.5, _GAS))
    yield _pipe((4.0, 36.0, 30.0), (2.0, 32.0, 300.0), (7.0, 7.0), 45.0)


def _great_vessels(blood: float) -> Iterator[Solid]:
    yield _pipe((14.0, 36.0, -140.0), (18.0, 34.0, 140.0), (9.0, 12.0), blood)
    yield _pipe((18.0, 34.0, 140.0), (4.0, -8.0, 148.0), (12.0, 13.0), blood)
    yield _pipe((4.0, -8.0, 148.0), (10.0, -15.0, 80.0), (13.0, 14.0), blood)
    yield _pipe((-20.0, 34.0, -140.0), (-20.0, 22.0, 50.0), (11.0, 12.0), blood * 0.85)
    yield _pipe((-24.0, -6.0, 80.0), (-20.0, -6.0, 190.0), (9.0, 9.0), blood * 0.9)
    for side in (-1.0, 1.0):
        yield _pipe((14.0, 36.0, -140.0), (side * 66.0, 6.0, -270.0), (7.0, 5.5), blood)
        yield _pipe((-20.0, 36.0, -140.0), (side * 60.0, 16.0, -270.0), (7.5, 6.5), blood * 0.8)
        yield _pipe((0.0, 32.0, -62.0), (side * 52.0, 44.0, -74.0), (4.5, 4.0), blood)
    yield _pipe((14.0, 26.0, -34.0), (8.0, -22.0, -150.0), (5.0, 3.0), blood)
    yield _pipe((-28.0, 4.0, -24.0), (20.0, 4.0, -50.0), (7.0, 6.0), blood)
    yield _pipe((-24.0, -8.0, -52.0), (70.0, 16.0, -18.0), (14.0, 8.0), 90.0)


def _bowel(generator: np.random.Generator) -> Iterator[Solid]:
    """Small bowel loops in the fat of the mesentery, surrounded by the colon, with some gas and contrast agent."""
    for row in range(5):
        for column in range(7):
            centre = np.array([(column - 3) * 27.0, -28.0, -66.0 - row * 34.0]) + generator.normal(0, (6, 16, 6))
            reach = generator.uniform(12, 30, 3) * generator.choice([-1, 1], 3)
            radius = float(generator.uniform(8, 14))
            content = float(generator.choice([15.0, 30.0, 220.0, _GAS], p=[0.4, 0.3, 0.15, 0.15]))
            yield _pipe(triple(centre - reach / 2), triple(centre + reach / 2), (radius, radius), 75.0, (3.0, content))
    corners = (
        (-106.0, 6.0, -196.0),
        (-104.0, -8.0, -92.0),
        (0.0, -62.0, -66.0),
        (104.0, 0.0, -44.0),
        (108.0, 14.0, -190.0),
    )
    for start, stop in pairwise(corners):
        yield _pipe(start, stop, (20.0, 18.0), 60.0, (3.0, 20.0))
        for share in generator.uniform(0, 1, 4):
            x, y, z = (np.array(start) * share + np.array(stop) * (1 - share)).tolist()
            yield _ball((x, y - 6.0, z), (9.0, 7.0, 11.0), _GAS)


def vessel_tree(
    organ: Ellipsoid,
    root_xyz_mm: Triple,
    generator: np.random.Generator,
    *,
    radius_mm: float,
    hu: float,
    generations: int,
) -> list[Tube]:
    """Vessels that enter an organ at the root and branch, each into two thinner ones that lead away from it."""
    radii = np.array(organ.radii_xyz_mm)
    branches: list[Tube] = []
    tips = []
    # The first branches diverge, so that vessels reach the whole organ.
    for offset in generator.normal(size=(9, 3)):
        stop = np.array(organ.centre_xyz_mm) + _unit(offset) * radii * 0.5
        branches.append(_pipe(root_xyz_mm, triple(stop), (radius_mm, radius_mm * 0.6), hu))
        tips.append((stop, stop - root_xyz_mm, radius_mm * 0.6))
    for generation in range(generations):
        grown = []
        for start, heading, radius in tips:
            for _ in range(2):
                turned = _unit(_unit(heading) + generator.normal(0, 0.5, 3))
                stop = start + turned * float(radii.mean()) * 0.4 * 0.8**generation
                if np.linalg.norm((stop - organ.centre_xyz_mm) / radii) < 0.95:
                    branches.append(_pipe(triple(start), triple(stop), (radius, radius * 0.75), hu))
                    grown.append((stop, turned, radius * 0.75))
        tips = grown
    return branches


def _unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6))


def _ball(centre: Triple, radii: Triple, hu: float, *inner: tuple[float, float]) -> Ellipsoid:
    return Ellipsoid(centre_xyz_mm=centre, radii_xyz_mm=radii, layers=((0.0, hu), *inner))


def _pipe(start: Triple, stop: Triple, radii: tuple[float, float], hu: float, *inner: tuple[float, float]) -> Tube:
    return Tube(start_xyz_mm=start, stop_xyz_mm=stop, radii_mm=radii, layers=((0.0, hu), *inner))
