"""`longilesion follow`: outlines lesions through any number of scans of a patient."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from longilesion.case import Click, EarlierVisit, Identity, Scan
from longilesion.case_files import check_identities, check_outputs
from longilesion.cli.course_table import course_table, summary
from longilesion.cli.page import Pages, write_course_pages
from longilesion.cli.terminal import console
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.config import Device, Precision
from longilesion.errors import InputError, LongilesionError
from longilesion.files import check_replaceable, check_writable
from longilesion.images import open_image, read_scan
from longilesion.lesion_facts import read_lesion_facts, warn_of_strangers
from longilesion.outlines import read_baseline
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports

if TYPE_CHECKING:
    from longilesion.course import TimePointRecord
    from longilesion.ensemble import Ensemble
    from longilesion.new_lesions import Search

_log = logging.getLogger(__name__)


def follow(
    scans: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    lesions: Path,
    output: Path,
    clicks: tuple[str, ...] = (),
    dates: tuple[str, ...] = (),
    from_last: bool = False,
    same_patient: bool = False,
    split_components: bool = False,
    find_new: bool = False,
    about: Path | None = None,
    model: Path = SHIPPED_MODEL,
    device: Device = "auto",
    precision: Precision = "auto",
    html: Path | None = None,
    viewer: Path | None = None,
) -> None:
    """Follow the lesions of one scan through all scans of a patient, given in order of time.

    Each scan is outlined with what those before it say. A lesion that is gone may come back. A scan that cannot be read
    is reported, and does not stop the others. What is done and unchanged is not done again, so that a further scan can
    be added later. Scans and masks are those of `longilesion segment`, DICOM among them.

    Args:
        scans: Two or more scans of a patient, the earliest first.
        lesions: Lesions outlined in the first scan, or in the last one with --from-last.
        output: Folder for a lesion map of each scan, records, and the course with the response (course.json,
            lesions.csv).
        clicks: Points on lesions in one of the scans, as 2=clicks.json for the second one. Lesions that are not known
            yet are followed from there on.
        dates: The scans' dates (2026-01-31), one each; by default those of DICOM, if there are any.
        from_last: Begin with the last scan and go back in time.
        same_patient: Accept DICOM scans whose PatientIDs differ, or whose dates run backwards.
        split_components: Give each connected component of --lesions its own id, the largest 1.
        find_new: Search every scan for lesions that nobody clicked; candidates are followed from there on.
        about: Table (.csv) of what is known of lesions, for the response: columns lesion (its id) and any of organ,
            node (yes for a lymph node) and target (yes or no).
        model: Folder with the model's settings and weights.
        device: Where the networks run; auto takes a GPU if there is one.
        precision: Number format of the networks; auto takes the fastest that the device has.
        html: Page to write for people, one file: pictures of all lesions over time, charts, and the response.
        viewer: Interactive page to write, one file: two of the scans at a time with the outlines in three planes, the
            lesions as a list; --html refers to it.
    """
    if len(scans) < 2:
        raise InputError(f"{len(scans)} scan; expected two or more, in order of time")
    pages = Pages(report=html, viewer=viewer)
    check_outputs([output, *pages.wanted], inputs=(*scans, lesions, about))
    facts = read_lesion_facts(about)
    clicked = _by_number(clicks, len(scans))
    given_dates = _dates(dates, len(scans))
    check_writable(output)
    check_replaceable(*pages.wanted)
    with lasting_imports():
        from longilesion.course import course_of
        from longilesion.fingerprint import fingerprint
        from longilesion.timeline_folder import write_course

    plan = Plan(
        scans=scans,
        clicks=clicked,
        dates=given_dates,
        lesions=lesions,
        split_components=split_components,
        same_patient=same_patient,
        folder=output,
    )
    settings = fingerprint(model, device, precision, find_new)
    output_console = console(piped_width=120)
    with output_console.status("loading the model") as status:
        tools = cache(lambda: _load(model, device, precision, find_new=find_new))
        records = {}
        run = _Run(plan=plan, settings=settings, tools=tools)
        order = reversed(range(1, len(scans) + 1)) if from_last else range(1, len(scans) + 1)
        for number in order:
            status.update(f"scan {number} of {len(scans)}")
            records[number] = run.go_through(number)
        course, _ = course_of([records[number] for number in sorted(records)], facts)
        write_course(output, course)
        warn_of_strangers(about, facts, course.lesion_ids)
        if pages.wanted:
            status.update("drawing")
            write_course_pages(pages, course, scans, output, model=model)
    output_console.print(course_table(course))
    for line in summary(course):
        output_console.print(line, highlight=False, soft_wrap=True)
    failed = [record for record in course.time_points if record.error is not None]
    if failed:
        numbers = ", ".join(str(record.number) for record in failed)
        raise InputError(f"{output}: scan {numbers} could not be gone through (see above); expected all of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is followed: scans in order of time, clicks and dates by their number, and where to."""

    scans: tuple[Path, ...]
    clicks: dict[int, Path]
    dates: dict[int, date]
    lesions: Path
    split_components: bool
    same_patient: bool
    folder: Path


class _Run:
    """Goes through the scans one by one; keeps how to get those that are done, as only a changed one needs them."""

    def __init__(self, *, plan: Plan, settings: str, tools: Callable[[], tuple[Ensemble, Search | None]]) -> None:
        self.plan, self.tools = plan, tools
        self.before: list[Callable[[], EarlierVisit]] = []
        self.last: tuple[int, Path, date | None] | None = None
        self.candidates: set[int] = set()
        self.made_of = settings

    def go_through(self, number: int) -> TimePointRecord:
        """The record of a scan, from before or made now; one that fails says why."""
        from longilesion.course import TimePointRecord
        from longilesion.fingerprint import fingerprint
        from longilesion.timeline_folder import finished, write_failure

        path = self.plan.scans[number - 1]
        try:
            self.made_of = self._fingerprint(number, path)
            record = finished(self.plan.folder, number, self.made_of)
            record = self._kept(record, path) if record is not None else self._made(number, path)
        except LongilesionError as error:
            if not self.before:
                # Without the first one there is nothing to follow.
                raise
            _log.warning("scan %d: %s", number, error)
            made_of = fingerprint(self.made_of, number, "failed")
            record = TimePointRecord(number=number, scan=str(path), fingerprint=made_of, error=str(error))
            write_failure(self.plan.folder, record)
        return record

    def _fingerprint(self, number: int, path: Path) -> str:
        from longilesion import __version__
        from longilesion.fingerprint import fingerprint

        if not path.exists():
            raise InputError(f"{path}: no such file; expected a scan")
        clicks = self.plan.clicks.get(number)
        first = () if self.before else (self.plan.lesions, self.plan.split_components)
        parts = [part for part in (path, clicks, *first) if part is not None]
        return fingerprint(__version__, self.made_of, number, self.plan.dates.get(number), *parts)

    def _kept(self, record: TimePointRecord, path: Path) -> TimePointRecord:
        from longilesion.timeline_folder import read_time_point

        self._keep(cache(lambda: read_time_point(self.plan.folder, record, read_scan(path)).visit), record, path)
        return record

    def _made(self, number: int, path: Path) -> TimePointRecord:
        from longilesion.course import record_of
        from longilesion.timeline import TimePoint, next_time_point
        from longilesion.timeline_folder import write_time_point

        scan = read_scan(path)
        on = self._date(number, path, scan.identity)
        clicks = self._clicks(number, path, scan)
        if not self.before:
            baseline = read_baseline(scan, self.plan.lesions, split_components=self.plan.split_components)
            point = TimePoint.given(baseline, clicks)
            if not baseline.regions and not clicks:
                raise InputError(f"{self.plan.lesions}: no lesion; expected outlines of some")
        else:
            ensemble, search = self.tools()
            point = next_time_point([load() for load in self.before], scan, ensemble, clicks=clicks, search=search)
        record = record_of(
            point, number=number, scan=str(path), made_of=self.made_of, on=on, candidates=self.candidates
        )
        write_time_point(self.plan.folder, record, point.lesions, open_image(path))
        self._keep(lambda: point.visit, record, path)
        return record

    def _keep(self, load: Callable[[], EarlierVisit], record: TimePointRecord, path: Path) -> None:
        self.before.append(load)
        self.candidates |= {lesion.id for lesion in record.lesions if lesion.is_candidate}
        self.last = record.number, path, record.on

    def _date(self, number: int, path: Path, identity: Identity | None) -> date | None:
        """The scan's date; raises InputError where it, or the patient, contradicts those of the scan before."""
        on = self.plan.dates.get(number) or (None if identity is None else identity.date)
        if self.last is not None and identity is not None and not self.plan.same_patient:
            other_number, other_path, other_on = self.last
            # Read again, as it may be one that was done by an earlier run.
            other = open_image(other_path).identity
            found = {number: (path, replace(identity, date=on))}
            if other is not None:
                found[other_number] = other_path, replace(other, date=other_on)
                (before, first), (after, second) = (found[each] for each in sorted(found))
                check_identities(before, first, after, second)
        return on

    def _clicks(self, number: int, path: Path, scan: Scan) -> dict[int, Click]:
        file = self.plan.clicks.get(number)
        if file is None:
            return {}
        read = read_click_pairs(
            baseline=[],
            followup=[ClickFile(path=file, scan_name="primary", grid=scan.grid)],
            may_lack_points=False,
        )
        return {pair.lesion_id: pair.followup for pair in read if pair.followup is not None}


def _load(model: Path, device: Device, precision: Precision, *, find_new: bool) -> tuple[Ensemble, Search | None]:
    from longilesion.ensemble import load_detector, load_ensemble

    ensemble = load_ensemble(model, device=device, precision=precision)
    if not find_new:
        return ensemble, None
    from longilesion.new_lesions import Search

    return ensemble, Search(detector=load_detector(ensemble, model=model, device=device, precision=precision))


def _by_number(clicks: Sequence[str], count: int) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for text in clicks:
        number, separator, path = text.partition("=")
        if not separator or not number.isdecimal() or not 1 <= int(number) <= count:
            raise InputError(f"--clicks {text}: expected NUMBER=FILE, with the number of a scan from 1 to {count}")
        if int(number) in found:
            raise InputError(f"--clicks {text}: a second file for scan {number}; expected one")
        found[int(number)] = Path(path)
    return found


def _dates(dates: Sequence[str], count: int) -> dict[int, date]:
    if dates and len(dates) != count:
        raise InputError(f"--dates: {len(dates)} dates for {count} scans; expected one each")
    found = {}
    for number, text in enumerate(dates, start=1):
        try:
            found[number] = date.fromisoformat(text)
        except ValueError:
            raise InputError(f"--dates {text}: expected dates such as 2026-01-31") from None
    for number in range(2, len(found) + 1):
        if found[number] < found[number - 1]:
            raise InputError(f"--dates: scan {number} before scan {number - 1}; expected dates in order of time")
    return found
