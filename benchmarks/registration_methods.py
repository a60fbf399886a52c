"""`python -m benchmarks.registration_methods`: libraries for the deformable step, on known deformations and real pairs.

All start from the library's own rigid step, on the same reduced scans. Libraries that are not installed are skipped;
the versions that were compared are in requirements-compare.txt.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from itertools import islice
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tyro
from jaxtyping import Float32, Float64

from benchmarks.pair_folder import read_pair
from benchmarks.registration_candidates import CANDIDATES, THREADS, Answers, Start
from benchmarks.registration_pairs import COVERAGES, registration_pair
from benchmarks.runs import ROOT
from longilesion.case import Scan
from longilesion.registration.check import shown_voxels
from longilesion.registration.coarse import body_centres_shift, find_shift
from longilesion.registration.deformable import warped
from longilesion.registration.reduction import ReducedScan, reduce_scan, transformed
from longilesion.registration.register import END_MM, SPACING_MM
from longilesion.registration.rigid import find_rigid
from longilesion.timing import Stopwatch
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources

# A click with a larger error is useless.
LOST_MM = 20.0
_COMMAND = "import sys; from benchmarks.registration_candidates import run_candidate; run_candidate(*sys.argv[1:])"
_HEADER = (
    *("method", "version", "licence", "failed"),
    *("mean", "median", "p90", "p97", "max", "> 20 mm"),
    *("mean s", "max s", "memory"),
)


@dataclass
class Arguments:
    """What to compare."""

    data: Path | None = None
    """A folder of CT volumes, the longest of which are taken; phantoms where there is none."""
    pair: Path | None = None
    """A folder with a real pair and its landmarks (`benchmarks/pair_folder.py`), for a table of its own."""
    pairs: int = 12
    """How many pairs are drawn."""
    methods: tuple[str, ...] = tuple(CANDIDATES)
    """Which methods, by their names in the table."""
    seed: int = 0
    """What the pairs follow from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A pair's corresponding points, and its scans after the steps common to all methods, with the seconds of these.

    `motions` are those of the first rows.
    """

    baseline_xyz_mm: Float64[np.ndarray, "n 3"]
    followup_xyz_mm: Float64[np.ndarray, "n 3"]
    before: ReducedScan
    after: ReducedScan
    motions: dict[str, Float64[np.ndarray, "4 4"] | None]
    seconds: dict[str, float]

    @property
    def motion(self) -> Float64[np.ndarray, "4 4"]:
        """The motion of the last successful step before the deformation."""
        return next(motion for motion in reversed(self.motions.values()) if motion is not None)

    @property
    def start(self) -> Start:
        """A candidate's input."""
        motion = self.motion
        return Start(
            fixed=self.before,
            moved_intensities=warped(self.after, self.before, motion),
            shown=shown_voxels(self.before, self.after, motion),
            inner=shown_voxels(self.before, self.after, motion, margin_mm=END_MM),
        )

    def errors_mm(
        self, motion: Float64[np.ndarray, "4 4"], field: Float32[np.ndarray, "z y x 3"] | None
    ) -> Float64[np.ndarray, "n"]:
        """Errors of the points, in mm."""
        local = transformed(self.before.local_from_world, self.baseline_xyz_mm)
        if field is not None:
            local = local + self.before.vectors_at(field, local)
        found = transformed(np.linalg.inv(self.after.local_from_world), transformed(motion, local))
        return np.asarray(np.linalg.norm(found - self.followup_xyz_mm, axis=1))


def main(arguments: Arguments) -> None:
    """Draws the pairs, runs the methods one by one, and prints their table, and that of the real pair."""
    unknown = set(arguments.methods) - set(CANDIDATES)
    if unknown:
        sys.exit(f"--methods: {min(unknown)} is none of {', '.join(CANDIDATES)}")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
    sources = islice(_sources(arguments.data, arguments.pairs), arguments.pairs)
    drawn = [_drawn(source, number, arguments.seed) for number, source in enumerate(sources)]
    _print_table(f"{len(drawn)} pairs", drawn, arguments.methods)
    if arguments.pair is not None:
        _print_table("The real pair", [_real(arguments.pair)], arguments.methods)


def _print_table(title: str, prepared: Sequence[Prepared], methods: Sequence[str]) -> None:
    rows = [_motion_row(prepared, name) for name in prepared[0].motions]
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        starts = Path(name) / "starts"
        starts.write_bytes(pickle.dumps([each.start for each in prepared]))
        rows += [_row(prepared, method, starts) for method in methods]
    points = sum(len(each.followup_xyz_mm) for each in prepared)
    print(f"\n{title}, {points} points; errors in mm; {THREADS} threads, {os.cpu_count()} cores.\n")
    _print_markdown([_HEADER, *rows])


def _sources(data: Path | None, count: int) -> Iterator[Source]:
    """The requested number of sources, one at a time, the longest volumes first, repeated if necessary."""
    if data is None:
        yield from phantom_sources(range(count))
        return
    names = sorted(find_volumes(data), key=lambda name: -_length_mm(data / name / "ct.nii.gz"))
    for number in range(count):
        yield from load_sources(data, [names[number % len(names)]])


def _length_mm(path: Path) -> float:
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    return float(header.GetSize()[2] * header.GetSpacing()[2])


def _drawn(source: Source, number: int, seed: int) -> Prepared:
    print(f"pair {number + 1}: {source.name} ...", file=sys.stderr)
    generator = np.random.default_rng((seed, number))
    pair = registration_pair(source, generator, coverage=COVERAGES[number % len(COVERAGES)])
    points = pair.baseline_xyz_mm[pair.is_shown], pair.followup_xyz_mm[pair.is_shown]
    return _prepared((pair.baseline, pair.followup), points)


def _real(folder: Path) -> Prepared:
    pair = read_pair(folder)
    return _prepared((pair.baseline, pair.followup), (pair.baseline_xyz_mm, pair.followup_xyz_mm))


def _prepared(
    scans: tuple[Scan, Scan], points_xyz_mm: tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3"]]
) -> Prepared:
    before, after = (reduce_scan(scan, SPACING_MM) for scan in scans)
    watch = Stopwatch()
    with watch("body centres"):
        centres = body_centres_shift(before, after)
    with watch("shift"):
        shift = find_shift(before, after)
    with watch("rigid"):
        rigid = find_rigid(before, after, shift or centres)
    motions = {
        "body centres": _translation(centres.xyz_mm),
        "shift": None if shift is None else _translation(shift.xyz_mm),
        "rigid": rigid,
    }
    return Prepared(
        baseline_xyz_mm=points_xyz_mm[0],
        followup_xyz_mm=points_xyz_mm[1],
        before=before,
        after=after,
        motions=motions,
        seconds=watch.seconds,
    )


def _translation(shift_xyz_mm: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "4 4"]:
    motion = np.eye(4)
    motion[:3, 3] = shift_xyz_mm
    return motion


def _motion_row(prepared: Sequence[Prepared], name: str) -> tuple[str, ...]:
    """A step before the deformation; where it failed, the pair's last successful one."""
    motions = [each.motions[name] for each in prepared]
    errors = [
        each.errors_mm(each.motion if motion is None else motion, None)
        for each, motion in zip(prepared, motions, strict=True)
    ]
    failed = sum(motion is None for motion in motions)
    seconds = [each.seconds[name] for each in prepared]
    return (name, "", "", *_figures(failed, errors, seconds), "")


def _row(prepared: Sequence[Prepared], method: str, starts: Path) -> tuple[str, ...]:
    """A method, run in a separate process; a pair on which it fails keeps its rigid motion."""
    try:
        package = metadata(CANDIDATES[method].package)
    except PackageNotFoundError:
        return (method, "not installed", *[""] * (len(_HEADER) - 2))
    print(f"{method} ...", file=sys.stderr)
    path = starts.with_name("answers")
    command = [sys.executable, "-c", _COMMAND, method, str(starts), str(path)]
    threads = dict.fromkeys(("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS"), str(THREADS))
    process = subprocess.run(command, cwd=ROOT, env={**os.environ, **threads}, stdout=sys.stderr, check=False)
    named = (method, package["Version"], _licence(package))
    if process.returncode:
        return (*named, "all", *[""] * (len(_HEADER) - len(named) - 1))
    answers: Answers = pickle.loads(path.read_bytes())
    errors = [each.errors_mm(each.motion, field) for each, field in zip(prepared, answers.fields, strict=True)]
    failed = sum(field is None for field in answers.fields)
    return (*named, *_figures(failed, errors, answers.seconds), f"{answers.peak_bytes / 1e9:.1f} GB")


def _figures(failed: int, errors_mm: Sequence[Float64[np.ndarray, "n"]], seconds: Sequence[float]) -> tuple[str, ...]:
    errors = np.concatenate(errors_mm)
    summary = errors.mean(), *np.quantile(errors, (0.5, 0.9, 0.97)), errors.max()
    lost = 100 * float((errors > LOST_MM).mean())
    return (
        str(failed),
        *(f"{value:.1f}" for value in summary),
        f"{lost:.1f} %",
        f"{np.mean(seconds):.1f}",
        f"{max(seconds):.1f}",
    )


def _licence(package: PackageMetadata) -> str:
    """The short name of a licence; some packages contain its whole text."""
    said = package.json
    text = " ".join(str(said.get(key, "")) for key in ("license_expression", "license", "classifier"))
    short = {"Apache": "Apache-2.0", "MIT License": "MIT", "BSD": "BSD", "General Public License": "GPL"}
    return next((name for word, name in short.items() if word in text), "unknown")


def _print_markdown(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
