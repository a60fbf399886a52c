"""`python -m benchmarks.html_report`: seconds and megabytes of pages of 20 lesions in 3 scans of 300 x 512 x 512."""

from __future__ import annotations

import time
from datetime import date

import numpy as np
from rich.console import Console
from rich.table import Table

from longilesion.case import Baseline, LesionMap, Scan
from longilesion.course import course_of, record_of
from longilesion.geometry import Grid
from longilesion.html_report.page import Load, make_page
from longilesion.html_report.viewer import make_viewer
from longilesion.timeline import TimePoint

SHAPE_ZYX, LESIONS, SCANS = (300, 512, 512), 20, 3


def time_point(number: int, hu: np.ndarray) -> TimePoint:
    """Balls of 6 to 25 mm radius that shrink from scan to scan."""
    generator = np.random.default_rng(7)
    grid = Grid.from_spacing(SHAPE_ZYX, (1.0, 0.8, 0.8))
    ids = np.zeros(SHAPE_ZYX, np.uint16)
    for lesion_id in range(1, LESIONS + 1):
        centre = generator.uniform(40, np.array(SHAPE_ZYX) - 40)
        radius = generator.uniform(6, 25) * 0.85**number
        low = np.maximum(np.floor(centre - 40), 0).astype(int)
        box = tuple(slice(start, start + 80) for start in low)
        index = np.indices(ids[box].shape).transpose(1, 2, 3, 0) + low
        inside = (((index - centre) * grid.spacing_zyx_mm) ** 2).sum(-1) <= radius**2
        ids[box][inside] = lesion_id
    return TimePoint.given(Baseline.of(Scan(hu=hu, grid=grid), LesionMap(ids=ids, grid=grid)))


def main() -> None:
    """Prints a table."""
    noise = np.random.default_rng(0).normal(40, 30, SHAPE_ZYX).astype(np.int16)
    points = [time_point(number, noise) for number in range(SCANS)]
    # Libraries are loaded before the clock starts.
    start = time.perf_counter()
    records = [
        record_of(point, number=number, scan="scan", made_of="", on=date(2026, number, 1))
        for number, point in enumerate(points, start=1)
    ]
    course, _ = course_of(records)
    measured = time.perf_counter() - start

    def load(point: TimePoint) -> Load:
        return lambda: (point.visit.baselines["primary"].scan, point.lesions)

    start = time.perf_counter()
    page = make_page(course, [load(point) for point in points], model="model")
    made = time.perf_counter() - start
    start = time.perf_counter()
    viewer = make_viewer(course, [load(point) for point in points])
    viewed = time.perf_counter() - start
    table = Table("", "seconds", "MB")
    table.add_row("measuring the lesions, and the response", f"{measured:.1f}", "")
    table.add_row("page, without reading the scans", f"{made:.1f}", f"{len(page.encode()) / 1e6:.2f}")
    table.add_row("interactive page, without reading the scans", f"{viewed:.1f}", f"{len(viewer.encode()) / 1e6:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
