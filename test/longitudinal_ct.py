"""Draws a small tree in the layout of Longitudinal-CT from phantoms: `python -m test.longitudinal_ct OUTPUT`.

Patients take turns: all fates in one scan; two scans of each time point; three follow-up scans; a point at the edge of
its scan; lesions that are unclear or not used in the challenge; two baseline scans and one follow-up scan.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import center_of_mass

from longilesion.case import Click, LesionMap, Scan
from longilesion.geometry import Grid
from test.phantoms import LESIONS, PhantomCase, PlannedLesion, View, torso_case

Naming = Literal["current", "earlier", "release 2"]

NAMINGS: tuple[Naming, ...] = ("current", "earlier", "release 2")
TOPOLOGIES = {"new": "NEWLYAPPEARING", "gone": "DISAPPEARING", "merged": "MERGING"}
COLUMNS = (
    "lesion_id", "cog_bl", "cog_fu", "cog_backpropagated", "cog_propagated", "img_id_bl", "img_id_fu", "lesion_type",
    "topology_class", "merged_into", "volume_bl", "volume_fu", "target_lesion", "use_for_challenge", "linking_unclear",
)  # fmt: skip
_TYPES = {
    "liver": "Liver", "spleen": "Spleen", "left kidney": "Kidney", "right lung": "Lung", "left lung": "Lung",
    "mesentery": "unclear",
}  # fmt: skip
_SEEN = View(heights_mm=(-168.0, 200.0), spacing_zyx_mm=(8.0, 5.0, 5.0))
_LATER = View(heights_mm=(-160.0, 200.0), spacing_zyx_mm=(8.0, 4.0, 4.0), middle_xyz_mm=(12.0, -20.0, -640.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    scan: Scan
    lesions: LesionMap


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """The images of both time points by number, and the rows of the lesion table by lesion id."""

    baseline: dict[int, Image] = field(default_factory=dict)
    followup: dict[int, Image] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)


def write_longitudinal_ct(
    output: Path, *, patients: int = 6, naming: Naming = "current", seed: int = 0, kinds: Sequence[int] | None = None
) -> list[str]:
    """Writes a tree and returns the ids of its patients; `kinds` says of which of the six kinds they are."""
    ids = [f"patient{number:03d}" for number in range(patients)]
    for number, patient_id in enumerate(ids):
        kind = number % len(_KINDS) if kinds is None else kinds[number]
        write_patient(output, patient_id, _KINDS[kind](seed * 1000 + number), naming=naming)
    if naming == "release 2":
        held_out = max(1, patients // 10)
        splits = {"train": ids[: -2 * held_out], "val": ids[-2 * held_out : -held_out], "test": ids[-held_out:]}
        (output / "data_split.json").write_text(json.dumps(splits, indent=1) + "\n")
    return ids


def write_patient(
    output: Path, patient_id: str, patient: Patient, *, naming: Naming = "current", with_clicks: bool = True
) -> None:
    inputs, targets = output / "inputsTr", output / "targetsTr"
    for folder in (inputs, targets):
        folder.mkdir(parents=True, exist_ok=True)
    for time, images in (("BL", patient.baseline), ("FU", patient.followup)):
        for number, image in images.items():
            suffix = f"{time}_img_{number:02d}" if naming == "earlier" else f"{number:02d}"
            write_nifti(inputs / f"{patient_id}_{time}_img_{suffix}.nii.gz", image.scan.hu, image.scan.grid)
            masks = inputs if time == "BL" else targets
            write_nifti(masks / f"{patient_id}_{time}_mask_{suffix}.nii.gz", image.lesions.ids, image.lesions.grid)
            if with_clicks:
                write_clicks(inputs / f"{patient_id}_{time}_{number:02d}.json", patient.rows, time, number)
    with (inputs / f"{patient_id}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(patient.rows.values())


def write_nifti(path: Path, voxels: np.ndarray, grid: Grid) -> None:
    image = sitk.GetImageFromArray(voxels)
    spacing_xyz = np.array(grid.spacing_zyx_mm)[::-1]
    image.SetSpacing(spacing_xyz.tolist())
    image.SetOrigin(grid.world_from_voxel[:3, 3].tolist())
    image.SetDirection((grid.world_from_voxel[:3, :3] / spacing_xyz).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def write_clicks(path: Path, rows: Mapping[int, Mapping[str, Any]], time: str, number: int) -> None:
    """The clicks that the challenge would give in an image."""
    columns = ("cog_bl", "cog_backpropagated") if time == "BL" else ("cog_propagated", "cog_fu")
    points = [
        {"name": str(row["lesion_id"]), "point": [float(part) for part in text.split()]}
        for row in rows.values()
        if row["use_for_challenge"] and row[f"img_id_{time.lower()}"] == number
        if (text := row[columns[0]] or row[columns[1]])
    ]
    content = {"name": "Points of interest", "type": "Multiple points", "points": points}
    path.write_text(json.dumps({**content, "version": {"major": 1, "minor": 0}}, indent=1) + "\n")


def drawn(phantom: PhantomCase, plans: Sequence[PlannedLesion], *, first_image: int = 0, first_id: int = 0) -> Patient:
    """A phantom as a patient; images and lesion ids start behind the given ones."""
    patient = Patient()
    numbers = {"primary": first_image, "secondary": first_image + 1}
    for name, baseline in phantom.case.baselines.items():
        assert baseline.lesions is not None
        patient.baseline[numbers[name]] = Image(scan=baseline.scan, lesions=_shifted(baseline.lesions, first_id))
    for name, scan in phantom.case.followups.items():
        patient.followup[numbers[name]] = Image(scan=scan, lesions=_shifted(phantom.truth[name], first_id))
    clicks = {pair.lesion_id: pair for pair in phantom.case.clicks}
    for plan in plans:
        pair, truth_id = clicks[plan.lesion_id], phantom.truth_ids.get(plan.lesion_id)
        assert pair.baseline is not None
        assert pair.followup is not None
        before, after = numbers[pair.baseline.scan_name], numbers[pair.followup.scan_name]
        was, is_new = patient.baseline[before], plan.fate == "new"
        now, own_id = patient.followup[after], plan.lesion_id + first_id
        patient.rows[own_id] = {
            "lesion_id": own_id,
            "cog_bl": "" if is_new else _centre(was, own_id),
            "cog_fu": "" if truth_id is None else _centre(now, truth_id + first_id),
            "cog_backpropagated": _text(pair.baseline, was) if is_new else "",
            # New lesions have nothing to propagate.
            "cog_propagated": "" if is_new else _text(pair.followup, now),
            "img_id_bl": before,
            "img_id_fu": after,
            "lesion_type": _TYPES[plan.organ],
            "topology_class": TOPOLOGIES.get(plan.fate, "UNCHANGED"),
            "merged_into": truth_id + first_id if plan.fate == "merged" and truth_id is not None else "",
            "volume_bl": _volume_mm3(was, own_id),
            "volume_fu": 0.0 if truth_id is None else _volume_mm3(now, truth_id + first_id),
            "target_lesion": plan.lesion_id == 1,
            "use_for_challenge": True,
            "linking_unclear": False,
        }
    return patient


def all_fates(seed: int) -> Patient:
    plans = tuple(replace(plan, radius_mm=max(plan.radius_mm, 9.0)) for plan in LESIONS)
    return drawn(_torso(seed, lesions=plans, baselines=[_SEEN], followups=[_LATER]), plans)


def two_scans(seed: int) -> Patient:
    """Lesion 2 lies in the first baseline scan and in the second follow-up scan."""
    plans = (
        PlannedLesion(lesion_id=1, fate="persists", organ="right lung", radius_mm=12.0, height_mm=140.0),
        PlannedLesion(lesion_id=2, fate="persists", organ="left kidney", radius_mm=14.0, height_mm=-60.0),
        PlannedLesion(lesion_id=3, fate="gone", organ="mesentery", radius_mm=14.0, height_mm=-170.0),
    )
    views = {
        "baselines": [
            replace(_SEEN, heights_mm=(-104.0, 192.0)),
            replace(_SEEN, name="secondary", heights_mm=(-216.0, -104.0), middle_xyz_mm=(5.0, 9.0, 300.0)),
        ],
        "followups": [
            replace(_LATER, heights_mm=(-16.0, 192.0)),
            replace(_LATER, name="secondary", heights_mm=(-216.0, -16.0)),
        ],
    }
    return drawn(_torso(seed, lesions=plans, **views), plans)


def three_scans(seed: int) -> Patient:
    """Two scans per time point and a third one, of another body; one lesion of it has its baseline in image 1."""
    patient, third = two_scans(seed), _lungs(seed + 500, first_image=2, first_id=10)
    patient.baseline.update(third.baseline)
    patient.followup.update(third.followup)
    patient.rows.update(third.rows)
    # Marked in image 1 of the baseline, and in image 2 of the follow-up.
    apart = patient.baseline[1].lesions.ids
    apart[3:5, 20:23, 30:33] = 12
    patient.baseline[2].lesions.ids[patient.baseline[2].lesions.ids == 12] = 0
    patient.rows[12].update(img_id_bl=1, cog_bl=" ".join(f"{value:.2f}" for value in (31, 21, 3.5)))
    return patient


def edge_point(seed: int) -> Patient:
    patient = _lungs(seed)
    _, _, x = patient.followup[0].scan.grid.shape_zyx
    patient.rows[2]["cog_propagated"] = f"{x - 1} 20 4"
    return patient


def unclear(seed: int) -> Patient:
    patient = _lungs(seed)
    patient.rows[2]["linking_unclear"] = True
    patient.rows[3]["use_for_challenge"] = False
    return patient


def two_baselines(seed: int) -> Patient:
    plans = (
        PlannedLesion(lesion_id=1, fate="persists", organ="liver", radius_mm=14.0, height_mm=15.0),
        PlannedLesion(lesion_id=2, fate="new", organ="right lung", radius_mm=12.0, height_mm=130.0),
        PlannedLesion(lesion_id=3, fate="grows", organ="mesentery", radius_mm=12.0, height_mm=-145.0),
    )
    views = [
        replace(_SEEN, heights_mm=(-64.0, 192.0)),
        replace(_SEEN, name="secondary", heights_mm=(-208.0, -64.0)),
    ]
    followup = replace(_LATER, heights_mm=(-208.0, 192.0))
    return drawn(_torso(seed, lesions=plans, baselines=views, followups=[followup]), plans)


def _lungs(seed: int, *, first_image: int = 0, first_id: int = 0) -> Patient:
    plans = (
        PlannedLesion(lesion_id=1, fate="persists", organ="right lung", radius_mm=12.0),
        PlannedLesion(lesion_id=2, fate="shrinks", organ="left lung", radius_mm=14.0),
        PlannedLesion(lesion_id=3, fate="gone", organ="right lung", radius_mm=12.0),
    )
    heights = (56.0, 200.0)
    views = {"baselines": [replace(_SEEN, heights_mm=heights)], "followups": [replace(_LATER, heights_mm=heights)]}
    return drawn(_torso(seed, lesions=plans, **views), plans, first_image=first_image, first_id=first_id)


_KINDS: tuple[Callable[[int], Patient], ...] = (
    all_fates,
    two_scans,
    three_scans,
    edge_point,
    unclear,
    two_baselines,
)


def _torso(seed: int, **planned: Any) -> PhantomCase:
    """A torso of the seed, or of a later one where the lesions find no place in that."""
    for attempt in range(20):
        try:
            return torso_case(seed + 1_000_000 * attempt, **planned)
        except ValueError:
            continue
    raise ValueError(f"seed {seed}: lesions find no place in twenty torsos")


def _shifted(lesions: LesionMap, first_id: int) -> LesionMap:
    ids = np.where(lesions.ids > 0, lesions.ids + np.uint16(first_id), np.uint16(0)).astype(np.uint16)
    return LesionMap(ids=ids, grid=lesions.grid)


def _centre(image: Image, lesion_id: int) -> str:
    z, y, x = center_of_mass(image.lesions.ids == lesion_id)
    return f"{x:.2f} {y:.2f} {z:.2f}"


def _text(click: Click, image: Image) -> str:
    z, y, x = image.scan.grid.index_zyx(click.point_xyz_mm)
    return f"{x:.2f} {y:.2f} {z:.2f}"


def _volume_mm3(image: Image, lesion_id: int) -> float:
    return round(float((image.lesions.ids == lesion_id).sum()) * image.lesions.grid.voxel_volume_ml * 1000, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--naming", choices=NAMINGS, default="current")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ids = write_longitudinal_ct(
        arguments.output, patients=arguments.patients, naming=arguments.naming, seed=arguments.seed
    )
    print(f"{arguments.output}: {len(ids)} patients")
    return 0


if __name__ == "__main__":
    sys.exit(main())
