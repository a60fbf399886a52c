"""The cases of a patient: Grand Challenge has two scans per time point, so a third belongs to another case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longilesion.case import SCAN_NAMES, Baseline, Case, Click, ClickPair, LesionMap, ScanName, lesion_regions
from longilesion.evaluation.exam import LesionFact
from longilesion.geometry import Triple
from longilesion.images import read_lesion_map, read_scan
from training.preparation.patient import (
    TIME_POINTS,
    CaseContent,
    ImageFiles,
    LesionTable,
    Made,
    OutlinedImage,
    Outlines,
    PatientFiles,
    TimePoint,
)
from training.preparation.prepared import CaseEntry
from training.preparation.record import ImageRecord, LeftOut, LesionRecord, Record
from training.preparation.selection import EdgeRule, KeptLesion, select_lesions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """A case before its voxels are assembled: the numbers of its images by scan, and its lesions."""

    case_id: str
    baselines: Mapping[ScanName, int]
    followups: Mapping[ScanName, int]
    lesions: tuple[KeptLesion, ...]

    def scans(self, time_point: TimePoint) -> Mapping[ScanName, int]:
        return self.baselines if time_point == "baseline" else self.followups


def read_outlines(files: PatientFiles) -> Outlines:
    """Reads a patient's images; raises InputError for an unusable image, or a mask of another size."""
    return {
        time_point: {number: _outlined(image) for number, image in files.images[time_point].items()}
        for time_point in TIME_POINTS
    }


def made_patient(
    files: PatientFiles, table: LesionTable, outlines: Outlines, *, edge: EdgeRule, warnings: Sequence[str] = ()
) -> Made:
    """The cases of a patient, and a record of all images and lesions."""
    selection = select_lesions(table, outlines, edge=edge)
    if selection.patient is not None:
        return _none(files, selection.patient, selection.left_out)
    plans = [plan for plan in _plans(files, outlines, selection.kept) if plan.lesions]
    placed = {lesion.row.lesion_id for plan in plans for lesion in plan.lesions}
    unplaced = [
        LesionRecord(
            lesion_id=lesion.row.lesion_id,
            fate=lesion.row.fate,
            left_out=LeftOut(reason="no point in a scan of its case"),
        )
        for lesion in selection.kept
        if lesion.row.lesion_id not in placed
    ]
    left_out = (*unplaced, *selection.left_out)
    if not plans:
        is_error = not left_out or any(record.left_out.is_error for record in left_out if record.left_out)
        return _none(files, LeftOut(reason="no lesion that can be used", is_error=is_error), left_out)
    cases = tuple(_content(files.patient, plan, outlines) for plan in plans)
    record = Record(
        name=files.case_id,
        patient=files.patient,
        cases=tuple(
            CaseEntry(case_id=content.case_id, patient=content.patient, lesions=len(content.facts)) for content in cases
        ),
        images=(*_image_records(plans, outlines), *files.left_out),
        lesions=(
            *(
                LesionRecord(lesion_id=lesion.row.lesion_id, fate=lesion.row.fate, case_id=plan.case_id)
                for plan in plans
                for lesion in plan.lesions
            ),
            *left_out,
        ),
        warnings=(*warnings, *table.warnings, *_apart(plans)),
    )
    return Made(cases=cases, record=record)


def _outlined(files: ImageFiles) -> OutlinedImage:
    scan = read_scan(files.image)
    lesions = read_lesion_map(files.mask, like=scan.grid, of=files.image.name)
    return OutlinedImage(file=files.image, scan=scan, lesions=lesions, regions=lesion_regions(lesions.ids))


def _none(files: PatientFiles, why: LeftOut, lesions: Sequence[LesionRecord]) -> Made:
    record = Record(name=files.case_id, patient=files.patient, left_out=why, lesions=tuple(lesions))
    return Made(cases=(), record=record)


def _plans(files: PatientFiles, outlines: Outlines, kept: Sequence[KeptLesion]) -> Iterator[_Plan]:
    """The case of the first two follow-up images, and one of each further one with the baselines of its lesions."""
    main: tuple[int, ...] = tuple(range(len(SCAN_NAMES)))
    named = _named(outlines["followup"], main)
    before = _named(outlines["baseline"], main)
    own = [lesion for lesion in kept if lesion.row.followup_image in named.values()]
    yield _Plan(case_id=files.case_id, baselines=before, followups=named, lesions=_placed(own, before))
    for number in sorted(outlines["followup"].keys() - set(main)):
        own = [lesion for lesion in kept if lesion.row.followup_image == number]
        needed = Counter(lesion.row.baseline_image for lesion in own)
        # The most frequent first; of equally frequent ones the lowest number.
        numbers = sorted(outlines["baseline"], key=lambda image: (-needed[image], image))
        used = [image for image in numbers if needed[image]][: len(SCAN_NAMES)] or numbers[:1]
        before = dict(zip(SCAN_NAMES, used, strict=False))
        yield _Plan(
            case_id=f"{files.case_id}_region{number}",
            baselines=before,
            followups={"primary": number},
            lesions=_placed(own, before),
        )


def _named(images: Collection[int], numbers: Sequence[int]) -> dict[ScanName, int]:
    return {name: number for name, number in zip(SCAN_NAMES, numbers, strict=True) if number in images}


def _placed(lesions: Iterable[KeptLesion], baselines: Mapping[ScanName, int]) -> tuple[KeptLesion, ...]:
    """The lesions with a position in a case: a follow-up point, or else the baseline."""
    return tuple(
        lesion
        for lesion in lesions
        if lesion.row.followup_xyz is not None
        or (
            lesion.row.baseline_image in baselines.values()
            and (lesion.row.fate != "new" or lesion.row.baseline_xyz is not None)
        )
    )


def _content(patient: str, plan: _Plan, outlines: Outlines) -> CaseContent:
    own = {lesion.row.lesion_id for lesion in plan.lesions}
    true = {lesion.true_id for lesion in plan.lesions}
    before = {name: outlines["baseline"][number] for name, number in plan.baselines.items()}
    after = {name: outlines["followup"][number] for name, number in plan.followups.items()}
    headers: dict[str, Path] = {f"{name}-followup-ct": image.file for name, image in after.items()}
    for name, image in before.items():
        headers |= {f"{name}-baseline-ct": image.file, f"{name}-baseline-ct-tumor-lesion-seg": image.file}
    case = Case(
        baselines={name: Baseline.of(image.scan, _only(image, own)) for name, image in before.items()},
        followups={name: image.scan for name, image in after.items()},
        clicks=tuple(
            ClickPair(
                lesion_id=lesion.row.lesion_id,
                baseline=_click(plan.baselines, lesion.row.baseline_image, lesion.row.baseline_xyz, before),
                followup=_click(plan.followups, lesion.row.followup_image, lesion.row.followup_xyz, after),
            )
            for lesion in plan.lesions
        ),
    )
    facts = {
        lesion.row.lesion_id: LesionFact(
            fate=lesion.row.fate,
            true_id=lesion.true_id,
            lesion_type=lesion.row.lesion_type,
            is_target=lesion.row.is_target,
        )
        for lesion in plan.lesions
    }
    return CaseContent(
        case_id=plan.case_id,
        patient=patient,
        case=case,
        truth={name: _only(image, true) for name, image in after.items()},
        facts=facts,
        headers=headers,
    )


def _only(image: OutlinedImage, lesion_ids: Collection[int | None]) -> LesionMap:
    """The map with some of its lesions; only their own voxels are written, so that the rest takes no memory."""
    ids = np.zeros_like(image.lesions.ids)
    for lesion_id, region in image.regions.items():
        if lesion_id in lesion_ids:
            ids[region.box][image.lesions.ids[region.box] == lesion_id] = lesion_id
    return LesionMap(ids=ids, grid=image.lesions.grid)


def _click(
    numbers: Mapping[ScanName, int],
    number: int | None,
    index_xyz: Triple | None,
    images: Mapping[ScanName, OutlinedImage],
) -> Click | None:
    name = next((name for name, other in numbers.items() if other == number), None)
    if name is None or index_xyz is None:
        return None
    return Click(scan_name=name, point_xyz_mm=images[name].scan.grid.world_xyz_mm(index_xyz[::-1]))


def _image_records(plans: Sequence[_Plan], outlines: Outlines) -> Iterator[ImageRecord]:
    """A record of each image for each case that contains it, or the reason why none does."""
    for time_point in TIME_POINTS:
        for number, image in outlines[time_point].items():
            used = [
                ImageRecord(file=image.file.name, case_id=plan.case_id, scan=f"{name}-{time_point}")
                for plan in plans
                for name, other in plan.scans(time_point).items()
                if other == number
            ]
            unused = LeftOut(reason="image without a lesion that can be used", is_error=False)
            yield from used or [ImageRecord(file=image.file.name, left_out=unused)]


def _apart(plans: Sequence[_Plan]) -> Iterator[str]:
    """A remark for each lesion whose baseline image is not in its case."""
    for plan in plans:
        for lesion in plan.lesions:
            if lesion.row.fate != "new" and lesion.row.baseline_image not in plan.baselines.values():
                yield (
                    f"lesion {lesion.row.lesion_id}: its baseline image {lesion.row.baseline_image} is not in the case "
                    f"{plan.case_id}; kept without baseline point and outline"
                )
