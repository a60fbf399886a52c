"""Goes through the scans of `longilesion follow` one by one; what is done and unchanged is not done again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from longilesion.case import Click, EarlierVisit, Identity, LesionMap, Scan
from longilesion.case_files import check_identities
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.errors import InputError, LongilesionError
from longilesion.image_file import ImageFile
from longilesion.images import open_image, read_lesion_map, read_scan
from longilesion.outlines import read_baseline

if TYPE_CHECKING:
    from longilesion.course import TimePointRecord
    from longilesion.ensemble import Ensemble
    from longilesion.new_lesions import Search

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is followed: scans in order of time, choices of series, clicks and dates by their number, and where to."""

    scans: tuple[Path, ...]
    series: Mapping[int, str]
    clicks: Mapping[int, Path]
    dates: Mapping[int, date]
    lesions: Path
    split_components: bool
    same_patient: bool
    folder: Path

    def path(self, number: int) -> Path:
        """The file or folder of a scan."""
        return self.scans[number - 1]

    def open(self, number: int) -> ImageFile:
        """Reads a scan's header."""
        return open_image(self.path(number), self.series.get(number))

    def read(self, number: int) -> Scan:
        """Reads a scan."""
        return read_scan(self.path(number), series=self.series.get(number))

    def read_lesions(self, number: int) -> LesionMap:
        """The lesions of a scan that has been gone through."""
        from longilesion.timeline_folder import map_path

        return read_lesion_map(map_path(self.folder, number), like=self.open(number).grid)


class CourseRun:
    """Goes through the scans one by one; keeps how to get those that are done, as only a changed one needs them."""

    def __init__(self, *, plan: Plan, settings: str, tools: Callable[[], tuple[Ensemble, Search | None]]) -> None:
        self.plan, self.tools = plan, tools
        self.before: list[Callable[[], EarlierVisit]] = []
        self.last: TimePointRecord | None = None
        self.candidates: set[int] = set()
        self.made_of = settings

    def go_through(self, number: int) -> TimePointRecord:
        """The record of a scan, from before or made now; one that fails says why."""
        from longilesion.course import TimePointRecord
        from longilesion.fingerprint import fingerprint
        from longilesion.timeline_folder import finished, write_failure

        try:
            self.made_of = self._fingerprint(number)
            record = finished(self.plan.folder, number, self.made_of)
            record = self._kept(record) if record is not None else self._made(number)
        except LongilesionError as error:
            if not self.before:
                # Without the first one there is nothing to follow.
                raise
            _log.warning("scan %d: %s", number, error)
            made_of = fingerprint(self.made_of, number, "failed")
            path = str(self.plan.path(number))
            record = TimePointRecord(number=number, scan=path, fingerprint=made_of, error=str(error))
            write_failure(self.plan.folder, record)
        return record

    def _fingerprint(self, number: int) -> str:
        from longilesion import __version__
        from longilesion.fingerprint import fingerprint

        path = self.plan.path(number)
        if not path.exists():
            raise InputError(f"{path}: no such file; expected a scan")
        clicks = self.plan.clicks.get(number)
        first = () if self.before else (self.plan.lesions, self.plan.split_components)
        parts = [part for part in (path, clicks, *first) if part is not None]
        chosen = self.plan.series.get(number), self.plan.dates.get(number)
        return fingerprint(__version__, self.made_of, number, *chosen, *parts)

    def _kept(self, record: TimePointRecord) -> TimePointRecord:
        from longilesion.timeline_folder import read_time_point

        def visit() -> EarlierVisit:
            return read_time_point(self.plan.folder, record, self.plan.read(record.number)).visit

        self._keep(cache(visit), record)
        return record

    def _made(self, number: int) -> TimePointRecord:
        from longilesion.course import record_of
        from longilesion.timeline import TimePoint, next_time_point
        from longilesion.timeline_folder import write_time_point

        scan = self.plan.read(number)
        on = self._date(number, scan.identity)
        clicks = self._clicks(number, scan)
        if not self.before:
            baseline = read_baseline(scan, self.plan.lesions, split_components=self.plan.split_components)
            point = TimePoint.given(baseline, clicks)
            if not baseline.regions and not clicks:
                raise InputError(f"{self.plan.lesions}: no lesion; expected outlines of some")
        else:
            ensemble, search = self.tools()
            point = next_time_point([load() for load in self.before], scan, ensemble, clicks=clicks, search=search)
        path = str(self.plan.path(number))
        record = record_of(point, number=number, scan=path, made_of=self.made_of, on=on, candidates=self.candidates)
        write_time_point(self.plan.folder, record, point.lesions, self.plan.open(number))
        self._keep(lambda: point.visit, record)
        return record

    def _keep(self, load: Callable[[], EarlierVisit], record: TimePointRecord) -> None:
        self.before.append(load)
        self.candidates |= {lesion.id for lesion in record.lesions if lesion.is_candidate}
        self.last = record

    def _date(self, number: int, identity: Identity | None) -> date | None:
        """The scan's date; raises InputError where it, or the patient, contradicts those of the scan before."""
        on = self.plan.dates.get(number) or (None if identity is None else identity.date)
        if self.last is not None and identity is not None and not self.plan.same_patient:
            # Read again, as it may be one that was done by an earlier run.
            other = self.plan.open(self.last.number).identity
            found = {number: replace(identity, date=on)}
            if other is not None:
                found[self.last.number] = replace(other, date=self.last.on)
                before, after = sorted(found)
                check_identities(self.plan.path(before), found[before], self.plan.path(after), found[after])
        return on

    def _clicks(self, number: int, scan: Scan) -> dict[int, Click]:
        file = self.plan.clicks.get(number)
        if file is None:
            return {}
        read = read_click_pairs(
            baseline=[],
            followup=[ClickFile(path=file, scan_name="primary", grid=scan.grid)],
            may_lack_points=False,
        )
        return {pair.lesion_id: pair.followup for pair in read if pair.followup is not None}
