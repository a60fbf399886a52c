"""Segments a sample case as the platform would, compares the outlines with the truth, and draws them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from longilesion.case import Case, Click, LesionMap, ScanName
from longilesion.grand_challenge import read_case
from longilesion.images import read_lesion_map
from test.cases import CASES, NAMES

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedLesion:
    """One lesion of the demo; masks are None where the lesion is not there, or not found. Dice is None for both."""

    lesion_id: int
    fate: str
    baseline: Click
    followup: Click
    truth: np.ndarray | None
    found: np.ndarray | None
    volumes_ml: tuple[float, float, float]
    dice: float | None
    presence: float
    note: str


def main() -> int:
    """Runs the demo and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=NAMES, default=NAMES[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "demo", help="default: %(default)s")
    parser.add_argument("--model", type=Path, help="model bundle (default: the shipped one)")
    options = parser.parse_args()
    folder = CASES / options.case
    report_file = options.output / "report.json"
    command = [sys.executable, REPOSITORY / "process.py", "--input", folder / "input", "--output", options.output]
    if options.model is not None:
        command += ["--model", options.model]
    finished = subprocess.run([*command, "--report", report_file], check=False)
    if finished.returncode != 0:
        return finished.returncode

    # Only now, as drawing is slow to load.
    from test.demo_figure import draw_lesions

    case, _ = read_case(folder / "input")
    report = json.loads(report_file.read_text())
    lesions = compare_lesions(case, folder / "truth", options.output, report["lesions"])
    # Wide enough for the table also where the output is no terminal.
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(lesion_table(lesions))
    stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in report["seconds"].items())
    console.print(f"Seconds: {stages}. Peak memory: {report['peak_memory_bytes'] / 1e9:.2f} GB.", highlight=False)
    picture = options.output / "lesions.png"
    draw_lesions(case, lesions, picture)
    console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)
    return 0


def compare_lesions(
    case: Case, truth: Path, output: Path, outcomes: Sequence[Mapping[str, object]]
) -> tuple[ComparedLesion, ...]:
    """Sets what was found against the truth, lesion by lesion; merged lesions are compared as one."""
    true_maps, found_maps = (_read_maps(folder, case) for folder in (truth, output))
    facts = {int(lesion_id): fact for lesion_id, fact in json.loads((truth / "lesions.json").read_text()).items()}
    by_id = {outcome["id"]: outcome for outcome in outcomes}
    compared = []
    for pair in case.clicks:
        fact, outcome = facts[pair.lesion_id], by_id[pair.lesion_id]
        name: ScanName = pair.followup.scan_name
        true_id = fact["truth_id"]
        same = [other for other, its in facts.items() if true_id is not None and its["truth_id"] == true_id]
        true_mask = np.zeros(()) if true_id is None else true_maps[name].ids == true_id
        found_mask = np.isin(found_maps[name].ids, same or [pair.lesion_id])
        voxel_ml = case.followups[name].grid.voxel_volume_ml
        region = case.baselines[pair.baseline.scan_name].regions.get(pair.lesion_id)
        baseline_voxel_ml = case.baselines[pair.baseline.scan_name].scan.grid.voxel_volume_ml
        compared.append(
            ComparedLesion(
                lesion_id=pair.lesion_id,
                fate=fact["fate"],
                baseline=pair.baseline,
                followup=pair.followup,
                truth=true_mask if true_mask.any() else None,
                found=found_mask if found_mask.any() else None,
                volumes_ml=(
                    0.0 if region is None else region.voxels * baseline_voxel_ml,
                    float(true_mask.sum()) * voxel_ml,
                    float(found_mask.sum()) * voxel_ml,
                ),
                dice=_dice(true_mask, found_mask),
                presence=float(outcome["presence"]),
                note=str(outcome["note"]),
            )
        )
    return tuple(compared)


def lesion_table(lesions: Sequence[ComparedLesion]) -> Table:
    """A row per lesion."""
    table = Table(box=box.SIMPLE_HEAD, title="Lesions, volumes in ml")
    for name in ("lesion", "fate"):
        table.add_column(name)
    for name in ("baseline", "truth", "found", "Dice", "presence"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    for lesion in lesions:
        volumes = [f"{volume:.2f}" if volume else "-" for volume in lesion.volumes_ml]
        row = (str(lesion.lesion_id), lesion.fate, *volumes, _dice_text(lesion), f"{lesion.presence:.2f}", lesion.note)
        table.add_row(*row)
    there = [lesion.dice for lesion in lesions if lesion.truth is not None and lesion.dice is not None]
    gone = [lesion for lesion in lesions if lesion.truth is None]
    recognised = sum(lesion.found is None for lesion in gone)
    table.caption = (
        f"Mean Dice {np.mean(there):.3f} over lesions still there; {recognised} of {len(gone)} gone recognised"
    )
    return table


def _dice_text(lesion: ComparedLesion) -> str:
    """The Dice coefficient, or that rightly nothing was found."""
    return "empty" if lesion.dice is None else f"{lesion.dice:.3f}"


def _dice(truth: np.ndarray, found: np.ndarray) -> float | None:
    total = int(truth.sum()) + int(found.sum())
    return None if total == 0 else 2 * float((truth & found).sum()) / total if truth.shape else 0.0


def _read_maps(folder: Path, case: Case) -> dict[ScanName, LesionMap]:
    return {
        name: read_lesion_map(folder / "images" / f"{name}-followup-ct-tumor-lesion-seg" / "output.mha", like=scan.grid)
        for name, scan in case.followups.items()
    }


if __name__ == "__main__":
    sys.exit(main())
