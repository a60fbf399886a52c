"""`longilesion follow`: outlines lesions through any number of scans of a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from longilesion.case_files import check_outputs
from longilesion.cli.course_run import CourseRun, Plan
from longilesion.cli.course_table import course_table, summary
from longilesion.cli.dicom_output import check_course_dicom, write_course_dicom
from longilesion.cli.page import Pages, write_course_pages
from longilesion.cli.terminal import console
from longilesion.config import Device, Precision
from longilesion.errors import InputError
from longilesion.files import check_replaceable, check_writable
from longilesion.lesion_facts import read_lesion_facts, warn_of_strangers
from longilesion.response import Lesion
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports

if TYPE_CHECKING:
    from longilesion.course import TimePointRecord
    from longilesion.ensemble import Ensemble
    from longilesion.new_lesions import Search


def follow(
    scans: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    lesions: Path,
    output: Path,
    clicks: tuple[str, ...] = (),
    series: tuple[str, ...] = (),
    dates: tuple[str, ...] = (),
    from_last: bool = False,
    same_patient: bool = False,
    split_components: bool = False,
    find_new: bool = False,
    about: Path | None = None,
    organs: Path | None = None,
    model: Path = SHIPPED_MODEL,
    device: Device = "auto",
    precision: Precision = "auto",
    dicom: bool = False,
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
        series: Number or UID of the DICOM series of a scan whose folder has several, as 2=UID for the second one.
        dates: The scans' dates (2026-01-31), one each; by default those of DICOM, if there are any.
        from_last: Begin with the last scan and go back in time.
        same_patient: Accept DICOM scans whose PatientIDs differ, or whose dates run backwards.
        split_components: Give each connected component of --lesions its own id, the largest 1.
        find_new: Search every scan for lesions that nobody clicked; candidates are followed from there on.
        about: Table (.csv) of what is known of lesions, for the response: columns lesion (its id) and any of organ,
            node (yes for a lymph node) and target (yes or no).
        organs: Folder of organ masks on the voxels of the scan of --lesions, as TotalSegmentator writes them, for the
            organs of lesions about which --about says nothing.
        model: Folder with the model's settings and weights.
        device: Where the networks run; auto takes a GPU if there is one.
        precision: Number format of the networks; auto takes the fastest that the device has.
        dicom: Write the outlines (SEG) and a report (SR) of each scan in DICOM, too: 02.dcm in --output for the second.
        html: Page to write for people, one file: pictures of all lesions over time, charts, and the response.
        viewer: Interactive page to write, one file: two of the scans at a time with the outlines in three planes, the
            lesions as a list; --html refers to it.
    """
    if len(scans) < 2:
        raise InputError(f"{len(scans)} scan; expected two or more, in order of time")
    pages = Pages(report=html, viewer=viewer)
    check_outputs([output, *pages.wanted], inputs=(*scans, lesions, about))
    facts = read_lesion_facts(about)
    plan = Plan(
        scans=scans,
        series=_by_number("series", series, len(scans)),
        clicks={number: Path(file) for number, file in _by_number("clicks", clicks, len(scans)).items()},
        dates=_dates(dates, len(scans)),
        lesions=lesions,
        split_components=split_components,
        same_patient=same_patient,
        folder=output,
    )
    check_writable(output)
    check_replaceable(*pages.wanted)
    if dicom:
        check_course_dicom(plan)
    with lasting_imports():
        from longilesion.course import course_of
        from longilesion.fingerprint import fingerprint
        from longilesion.timeline_folder import write_course

    settings = fingerprint(model, device, precision, find_new)
    output_console = console()
    with output_console.status("loading the model") as status:
        tools = cache(lambda: _load(model, device, precision, find_new=find_new))
        records = {}
        run = CourseRun(plan=plan, settings=settings, tools=tools)
        order = reversed(range(1, len(scans) + 1)) if from_last else range(1, len(scans) + 1)
        for number in order:
            status.update(f"scan {number} of {len(scans)}")
            records[number] = run.go_through(number)
        in_order = [records[number] for number in sorted(records)]
        first = records[len(scans) if from_last else 1]
        course, response = course_of(in_order, _with_organs(facts, plan, first, organs))
        write_course(output, course)
        warn_of_strangers(about, facts, course.lesion_ids)
        if dicom:
            status.update("writing DICOM")
            write_course_dicom(plan, in_order, response, first=first)
        if pages.wanted:
            status.update("drawing")
            write_course_pages(pages, course, plan, model=model)
    output_console.print(course_table(course))
    for line in summary(course):
        output_console.print(line, highlight=False, soft_wrap=True)
    failed = [record for record in course.time_points if record.error is not None]
    if failed:
        numbers = ", ".join(str(record.number) for record in failed)
        raise InputError(f"{output}: scan {numbers} could not be gone through (see above); expected all of them")


def _load(model: Path, device: Device, precision: Precision, *, find_new: bool) -> tuple[Ensemble, Search | None]:
    from longilesion.ensemble import load_detector, load_ensemble

    ensemble = load_ensemble(model, device=device, precision=precision)
    if not find_new:
        return ensemble, None
    from longilesion.new_lesions import Search

    return ensemble, Search(detector=load_detector(ensemble, model=model, device=device, precision=precision))


def _with_organs(
    facts: Mapping[int, Lesion], plan: Plan, first: TimePointRecord, folder: Path | None
) -> Mapping[int, Lesion]:
    if folder is None:
        return facts
    # Imported late, as few runs have masks of organs.
    from longilesion.lesion_organs import with_lesion_organs

    return with_lesion_organs(facts, plan.read_lesions(first.number), folder)


def _by_number(option: str, given: Sequence[str], count: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for text in given:
        number, _, value = text.partition("=")
        if not value or not number.isdecimal() or not 1 <= int(number) <= count:
            raise InputError(f"--{option} {text}: expected NUMBER=VALUE, with the number of a scan from 1 to {count}")
        if int(number) in found:
            raise InputError(f"--{option} {text}: a second one for scan {number}; expected one")
        found[int(number)] = value
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
