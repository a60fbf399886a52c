"""`longilesion segment`: outlines lesions in image files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from longilesion.case import Case
from longilesion.case_files import SeriesChoice, check_outputs, read_case
from longilesion.cli.dicom_output import Scans, check_dicom_output, write_dicom
from longilesion.cli.lesion_table import lesion_table
from longilesion.cli.page import Pages, write_case_pages
from longilesion.cli.terminal import console, progress
from longilesion.config import Device, Precision
from longilesion.diagnosis_settings import STATEMENT
from longilesion.errors import InputError
from longilesion.files import check_replaceable, written_together
from longilesion.images import check_lesion_map, check_writable_format, open_image, write_lesion_map
from longilesion.labelling import Labels
from longilesion.lesion_facts import read_lesion_facts, warn_of_strangers
from longilesion.organs import LIVER, check_search_options, confined
from longilesion.response import Lesion
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports
from longilesion.timing import Stopwatch

if TYPE_CHECKING:
    from longilesion.diagnosis.bundle import DiagnosisModel
    from longilesion.pipeline import Segmentation

OutputFormat: TypeAlias = Literal["auto", "image", "dicom"]


def segment(
    *,
    followup: Path,
    output: Path,
    baseline: Path | None = None,
    lesions: Path | None = None,
    baseline_clicks: Path | None = None,
    followup_clicks: Path | None = None,
    baseline_series: str | None = None,
    followup_series: str | None = None,
    same_patient: bool = False,
    model: Path = SHIPPED_MODEL,
    device: Device = "auto",
    precision: Precision = "auto",
    labels: Labels = "lesion_ids",
    split_components: bool = False,
    refine_clicks: bool = False,
    find_new: bool = False,
    organs: Path | None = None,
    organ: tuple[str, ...] = (),
    detector: Path | None = None,
    types: Path | None = None,
    about: Path | None = None,
    report: Path | None = None,
    html: Path | None = None,
    viewer: Path | None = None,
    format: OutputFormat = "auto",
) -> None:
    """Outline the lesions of a baseline scan in a follow-up scan.

    Scans and masks are .nii.gz, .nii, .mha or .nrrd files, or DICOM: a folder or a multi-frame file of CT, masks as SEG
    or RTSTRUCT. The mask, clicks or both tell which lesions to look for and
    where: without clicks, the centre of each lesion in the mask is its baseline click; without a follow-up click, the
    baseline click is propagated. Clicks are JSON files as on Grand Challenge, with the lesion's id as name and the
    x, y, z voxel index in their scan as point: {"points": [{"name": "7", "point": [212.5, 301.0, 48.0]}]}, 3D Slicer's
    fiducials (.mrk.json), or tables (.csv) with the columns id, x, y, z (voxels) or id, x_mm, y_mm, z_mm (LPS).

    Args:
        followup: Scan to outline the lesions in.
        output: Lesion map to write, with the follow-up scan's geometry, in the format of its suffix; or a folder for
            DICOM, with the suffix .dcm: a segmentation (SEG) and a report (SR) on the lesions and the response.
        baseline: Earlier scan of the same patient.
        lesions: Lesions outlined in the baseline scan; the value of a voxel is the lesion's id, 0 is none.
        baseline_clicks: A point on each lesion in the baseline scan.
        followup_clicks: A point on or near each lesion in the follow-up scan.
        baseline_series: Number or UID of the baseline's DICOM series, where its folder has several; without it, they
            are listed.
        followup_series: The same of the follow-up scan.
        same_patient: Accept DICOM scans whose PatientIDs differ, or whose dates run backwards.
        model: Folder with the model's settings and weights.
        device: Where the networks run; auto takes a GPU if there is one.
        precision: Number format of the networks; auto takes the fastest that the device has.
        labels: Whether a lesion's voxels hold its id or 1.
        split_components: Give each connected component of --lesions its own id, the largest 1; for masks with one
            value for all lesions. Clicks belong to the component that they lie in.
        refine_clicks: Let registration move follow-up clicks that it contradicts confidently.
        find_new: Search the follow-up scan for lesions that nobody clicked; candidates get ids after the highest one.
        organs: Folder of organ masks on the follow-up scan's voxels, as TotalSegmentator writes them; the search is
            confined to all of them together. Without it, the whole body is searched.
        organ: Names of the masks to use, such as liver for liver.nii.gz; all where none is given.
        detector: Folder of the model that searches; by default the folder detector in --model, or the shipped one.
        types: Folder of a model of lesion types, which tells those of the lesions in the liver from the follow-up scan
            alone, taken for a venous phase; --organs needs a mask of the liver. Research use only, trained on synthetic
            lesions.
        about: Table (.csv) of what is known of lesions, for the response: columns lesion (its id) and any of organ,
            node (yes for a lymph node) and target (yes or no).
        report: JSON file for a report of the run.
        html: Page to write for people, one file: pictures of all lesions in both scans, and the response.
        viewer: Interactive page to write, one file: both scans with the outlines in three planes, the lesions as a
            list; --html refers to it.
        format: Whether to write an image or DICOM; auto goes by the suffix of --output.
    """
    as_dicom = format == "dicom" or (format == "auto" and output.suffix.lower() == ".dcm")
    pages = Pages(report=html, viewer=viewer)
    outputs = [output, *([] if report is None else [report]), *pages.wanted]
    check_outputs(outputs, inputs=(followup, baseline, lesions, baseline_clicks, followup_clicks, about))
    _check_output(output, followup, labels, as_dicom=as_dicom)
    check_replaceable(*outputs[as_dicom:])
    check_search_options(find_new=find_new, organs=organs, organ=organ, detector=detector, types=types)
    for name, given in (("types", types), ("html", html), ("viewer", viewer)):
        if given is not None and labels == "binary":
            raise InputError(
                f"--{name} with --labels binary, which tell no lesions apart; expected --labels lesion_ids"
            )
    if lesions is None and baseline_clicks is None and followup_clicks is None and not find_new:
        raise InputError("nothing to look for; expected --lesions, --baseline-clicks, --followup-clicks or --find-new")
    facts = read_lesion_facts(about)
    # Imported late: torch takes a second to load, and --help, or an invalid option, does not need it.
    with lasting_imports():
        from longilesion.ensemble import load_detector, load_ensemble
        from longilesion.pipeline import segment_case, with_types

    series = SeriesChoice(baseline=baseline_series, followup=followup_series)
    output_console = console()
    # The spinner shows in a terminal only.
    with output_console.status("loading the model") as status:
        watch = Stopwatch()
        with watch("load"):
            ensemble = load_ensemble(model, device=device, precision=precision)
            searching = None
            if find_new:
                searching = load_detector(ensemble, detector, model=model, device=device, precision=precision)
            typing = None if types is None else _load_typing(types, device, precision)
        status.update("reading the scans")
        with watch("read"):
            case = read_case(
                followup,
                baseline,
                lesions,
                baseline_clicks=baseline_clicks,
                followup_clicks=followup_clicks,
                split_components=split_components,
                series=series,
                same_patient=same_patient,
            )
            livers = confined(case, organs, [LIVER]).followups if organs is not None and types is not None else {}
            if organs is not None and find_new:
                case = confined(case, organs, organ)
        status.update("outlining the lesions")
        search = None
        if searching is not None:
            from longilesion.new_lesions import Search

            search = Search(detector=searching, progress=progress(status, "searching"))
        segmentation = segment_case(case, ensemble, labels=labels, refine_clicks=refine_clicks, search=search)
        if typing is not None:
            status.update("telling types")
            segmentation = with_types(segmentation, livers, typing)
        lesion_map = segmentation.maps["primary"]
        with watch("write"):
            if as_dicom:
                scans = Scans(baseline=baseline, followup=followup, series=series, mask=lesions)
                write_dicom(output, case, segmentation, scans, facts)
            else:
                with written_together({output: partial(check_lesion_map, written=lesion_map)}) as (temporary,):
                    write_lesion_map(temporary, lesion_map, like=open_image(followup, followup_series))
    output_console.print(lesion_table(segmentation.lesions, segmentation.candidates, segmentation.types))
    if typing is not None:
        output_console.print(f"types: {STATEMENT}", highlight=False)
    looked_for = [each.prompt.lesion_id for each in segmentation.lesions]
    warn_of_strangers(about, facts, [*looked_for, *segmentation.left_out])
    # Last, so that the map and the table are complete if a report cannot be written.
    _write_reports(report, pages, case, segmentation, watch, scans=(baseline, followup), model=model, facts=facts)


def _check_output(output: Path, followup: Path, labels: Labels, *, as_dicom: bool) -> None:
    if as_dicom:
        check_dicom_output(output, followup, labels)
    else:
        check_writable_format(output)


def _write_reports(
    report: Path | None,
    pages: Pages,
    case: Case,
    segmentation: Segmentation,
    watch: Stopwatch,
    *,
    scans: tuple[Path | None, Path],
    model: Path,
    facts: Mapping[int, Lesion],
) -> None:
    from longilesion.report import make_report, write_report

    if report is not None:
        write_report(report, make_report(case, segmentation, seconds=watch.seconds, facts=facts))
    if pages.wanted:
        write_case_pages(pages, case, segmentation, scans, model=model, facts=facts)


def _load_typing(folder: Path, device: Device, precision: Precision) -> DiagnosisModel:
    # Imported late, as few runs ask for types.
    from longilesion.diagnosis.bundle import load_diagnosis_bundle

    return load_diagnosis_bundle(folder, device, precision)
