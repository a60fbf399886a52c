"""Draws the sample cases (`python -m test.cases`), or runs the shipped model on them (with `--expected`).

The inputs need drawing again only when the phantom changes, the expected outputs whenever the model does.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from longilesion.case import Baseline, Scan
from test.cases import CASES, NAMES
from test.phantom_folders import compressible, write_grand_challenge_case, write_truth
from test.phantoms import PhantomCase, PlannedLesion, View, torso_case

SPACING_ZYX_MM = (4.0, 2.2, 2.2)
WIDTH_XY_MM = (372.0, 252.0)
NOISE_HU = 6.0


def interface_1() -> PhantomCase:
    """One scan per time point, all fates, the two scans far apart in their worlds."""
    lesions = (
        PlannedLesion(lesion_id=1, fate="persists", organ="liver", radius_mm=14.0),
        PlannedLesion(lesion_id=2, fate="grows", organ="right lung", radius_mm=8.0),
        PlannedLesion(lesion_id=3, fate="shrinks", organ="mesentery", radius_mm=15.0),
        PlannedLesion(lesion_id=4, fate="gone", organ="left lung", radius_mm=8.0),
        PlannedLesion(lesion_id=5, fate="new", organ="liver", radius_mm=11.0),
        PlannedLesion(lesion_id=6, fate="merged", organ="mesentery", radius_mm=10.0),
        PlannedLesion(lesion_id=7, fate="merged", organ="mesentery", radius_mm=9.0),
        PlannedLesion(lesion_id=8, fate="persists", organ="spleen", radius_mm=9.0),
    )
    return _drawn(
        11,
        lesions,
        baselines=[_view(heights_mm=(-150.0, 190.0), middle_xyz_mm=(0.0, 0.0, 1250.0))],
        followups=[
            _view(heights_mm=(-160.0, 180.0), spacing_zyx_mm=(5.0, 2.0, 2.0), middle_xyz_mm=(8.0, -12.0, -700.0))
        ],
    )


def interface_2() -> PhantomCase:
    """Two scans per time point; lesion 300 lies in the primary baseline and in the secondary follow-up scan."""
    lesions = (
        PlannedLesion(lesion_id=1, fate="persists", organ="right lung", radius_mm=9.0, height_mm=140.0),
        PlannedLesion(lesion_id=300, fate="persists", organ="left kidney", radius_mm=12.0, height_mm=-60.0),
        PlannedLesion(lesion_id=17, fate="grows", organ="mesentery", radius_mm=10.0, height_mm=-165.0),
        PlannedLesion(lesion_id=18, fate="gone", organ="mesentery", radius_mm=9.0, height_mm=-185.0),
    )
    return _drawn(
        22,
        lesions,
        baselines=[
            _view(heights_mm=(-100.0, 168.0)),
            _view(name="secondary", heights_mm=(-212.0, -100.0), middle_xyz_mm=(5.0, 9.0, 300.0)),
        ],
        followups=[
            _view(heights_mm=(-16.0, 172.0), middle_xyz_mm=(-6.0, 4.0, 20.0)),
            _view(name="secondary", heights_mm=(-216.0, -16.0), middle_xyz_mm=(-6.0, 4.0, 20.0)),
        ],
    )


def interface_3() -> PhantomCase:
    """Two baseline scans, one of them with the patient's other side first, and one follow-up scan."""
    lesions = (
        PlannedLesion(lesion_id=1, fate="persists", organ="liver", radius_mm=12.0, height_mm=5.0),
        PlannedLesion(lesion_id=2, fate="shrinks", organ="left lung", radius_mm=10.0, height_mm=120.0),
        PlannedLesion(lesion_id=3, fate="grows", organ="mesentery", radius_mm=9.0, height_mm=-150.0),
    )
    return _drawn(
        33,
        lesions,
        baselines=[
            _view(heights_mm=(-70.0, 170.0), direction=np.diag([-1.0, -1.0, 1.0])),
            _view(name="secondary", heights_mm=(-210.0, -70.0), direction=np.diag([1.0, 1.0, -1.0])),
        ],
        followups=[_view(heights_mm=(-200.0, 165.0), middle_xyz_mm=(-10.0, 15.0, 60.0))],
    )


def interface_4() -> PhantomCase:
    """One baseline scan and two follow-up scans, of which the primary one is tilted."""
    lesions = (
        PlannedLesion(lesion_id=1, fate="persists", organ="right lung", radius_mm=10.0, height_mm=125.0),
        PlannedLesion(lesion_id=2, fate="new", organ="liver", radius_mm=13.0, height_mm=15.0),
        PlannedLesion(lesion_id=3, fate="persists", organ="mesentery", radius_mm=12.0, height_mm=-130.0),
        PlannedLesion(lesion_id=4, fate="gone", organ="left lung", radius_mm=9.0, height_mm=135.0),
    )
    tilted = Rotation.from_euler("xz", (9.0, 4.0), degrees=True).as_matrix()
    return _drawn(
        44,
        lesions,
        baselines=[_view(heights_mm=(-190.0, 185.0), middle_xyz_mm=(0.0, 0.0, 400.0))],
        followups=[
            _view(heights_mm=(-52.0, 190.0), direction=tilted, middle_xyz_mm=(20.0, -30.0, -50.0)),
            _view(name="secondary", heights_mm=(-200.0, -60.0), middle_xyz_mm=(20.0, -30.0, -50.0)),
        ],
    )


def main() -> int:
    """Writes the inputs and the truth, or the expected outputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--expected", action="store_true", help="write the shipped model's outputs instead of the inputs"
    )
    if parser.parse_args().expected:
        return max(_write_expected(CASES / name) for name in NAMES)
    for name, draw in zip(NAMES, (interface_1, interface_2, interface_3, interface_4), strict=True):
        phantom = draw()
        for part in ("input", "truth"):
            shutil.rmtree(CASES / name / part, ignore_errors=True)
        # The older form of the manifest is still met where a case was downloaded before it changed.
        key = "interface" if name == "interface_3" else "socket"
        write_grand_challenge_case(phantom, CASES / name / "input", manifest_key=key)
        write_truth(phantom, CASES / name / "truth")
        print(f"{name}: {len(phantom.fates)} lesions, {_megabytes(CASES / name):.1f} MB")
    return 0


def _write_expected(case: Path) -> int:
    shutil.rmtree(case / "expected", ignore_errors=True)
    process = Path(__file__).parents[2] / "process.py"
    # In the precision that every machine has, so that the outputs are the same everywhere.
    command = [sys.executable, process, "--input", case / "input", "--output", case / "expected", "--device", "cpu"]
    return subprocess.run([*command, "--precision", "float32"], check=False).returncode


def _view(**changes: object) -> View:
    return replace(View(spacing_zyx_mm=SPACING_ZYX_MM, width_xy_mm=WIDTH_XY_MM), **changes)


def _drawn(
    seed: int, lesions: tuple[PlannedLesion, ...], *, baselines: list[View], followups: list[View]
) -> PhantomCase:
    phantom = torso_case(seed, lesions=lesions, baselines=baselines, followups=followups, noise_hu=NOISE_HU)
    case = phantom.case
    smaller = replace(
        case,
        baselines={
            name: Baseline(scan=_smaller(prior.scan), lesions=prior.lesions, regions=prior.regions)
            for name, prior in case.baselines.items()
        },
        followups={name: _smaller(scan) for name, scan in case.followups.items()},
    )
    return replace(phantom, case=smaller)


def _smaller(scan: Scan) -> Scan:
    return Scan(hu=compressible(scan.hu), grid=scan.grid)


def _megabytes(folder: Path) -> float:
    sizes: Mapping[str, int] = {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(sizes.values()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
