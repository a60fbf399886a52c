"""`longilesion segment`: outlines lesions in image files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro

from longilesion.case import Case, LesionMap
from longilesion.case_files import SeriesChoice, check_outputs, read_case
from longilesion.cli.course_table import response_text
from longilesion.cli.dicom_output import check_dicom_output, write_dicom
from longilesion.cli.lesion_table import lesion_table
from longilesion.cli.page import Pages, write_case_pages
from longilesion.cli.scans import Scans, ScanSource
from longilesion.cli.terminal import console, with_progress
from longilesion.config import Device, Precision
from longilesion.diagnosis_settings import STATEMENT
from longilesion.errors import InputError
from longilesion.files import check_replaceable, written_together
from longilesion.images import check_lesion_map, check_writable_format, open_image, write_lesion_map
from longilesion.labelling import Labels
from longilesion.lesion_facts import read_lesion_facts, warn_of_strangers
from longilesion.organs import check_search_options
from longilesion.response import Lesion
from longilesion.run_options import RunOptions
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports
from longilesion.timing import Stopwatch

OutputFormat: TypeAlias = Literal["auto", "image", "dicom"]


def segment(
    *,
    output: Path,
    followup: Path | None = None,
    baseline: Path | None = None,
    lesions: Path | None = None,
    baseline_clicks: Path | None = None,
    followup_clicks: Path | None = None,
    baseline_series: str | None = None,
    followup_series: str | None = None,
    from_archive: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    lesions_series: str | None = None,
    store: bool = False,
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
    baseline_organs: Path | None = None,
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
        output: Lesion map to write, with the follow-up scan's geometry, in the format of its suffix; or a folder for
            DICOM, with the suffix .dcm: a segmentation (SEG) and a report (SR) on the lesions and the response.
        followup: Scan to outline the lesions in.
        baseline: Earlier scan of the same patient.
        lesions: Lesions outlined in the baseline scan; the value of a voxel is the lesion's id, 0 is none.
        baseline_clicks: A point on each lesion in the baseline scan.
        followup_clicks: A point on or near each lesion in the follow-up scan.
        baseline_series: Number or UID of the baseline's DICOM series, where its folder has several; without it, they
            are listed.
        followup_series: The same of the follow-up scan.
        from_archive: DICOMweb address of an archive, such as http://localhost:8042/dicom-web, from which the scans are
            fetched by their SeriesInstanceUIDs, --baseline-series and --followup-series. Credentials are those of the
            environment, as for `longilesion fetch`.
        lesions_series: SeriesInstanceUID of the mask in that archive, a SEG or RTSTRUCT.
        store: Store the results in DICOM in that archive, too.
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
        baseline_organs: Folder of organ masks on the baseline scan's voxels, as TotalSegmentator writes them, for the
            organs of lesions about which --about says nothing.
        report: JSON file for a report of the run.
        html: Page to write for people, one file: pictures of all lesions in both scans, and the response.
        viewer: Interactive page to write, one file: both scans with the outlines in three planes, the lesions as a
            list; --html refers to it.
        format: Whether to write an image or DICOM; auto goes by the suffix of --output.
    """
    as_dicom = format == "dicom" or (format == "auto" and output.suffix.lower() == ".dcm")
    pages = Pages(report=html, viewer=viewer)
    series = SeriesChoice(baseline=baseline_series, followup=followup_series)
    source = ScanSource(
        followup=followup,
        baseline=baseline,
        lesions=lesions,
        series=series,
        archive=from_archive,
        lesions_series=lesions_series,
    )
    source.check()
    outputs = [output, *([] if report is None else [report]), *pages.wanted]
    check_outputs(outputs, inputs=(followup, baseline, lesions, baseline_clicks, followup_clicks, about))
    _check_output(output, source, labels, as_dicom=as_dicom, store=store)
    check_replaceable(*outputs[as_dicom:])
    check_search_options(find_new=find_new, organs=organs, organ=organ, detector=detector, types=types)
    if labels == "binary":
        _check_tells_lesions_apart(types=types, html=html, viewer=viewer)
    if not (source.has_lesions or baseline_clicks or followup_clicks or find_new):
        raise InputError("nothing to look for; expected --lesions, --baseline-clicks, --followup-clicks or --find-new")
    facts = read_lesion_facts(about)
    options = RunOptions(
        model=model,
        device=device,
        precision=precision,
        refine_clicks=refine_clicks,
        find_new=find_new,
        organs=organs,
        organ=organ,
        detector=detector,
        types=types,
    )
    # Imported late: torch takes a second to load, and --help, or an invalid option, does not need it.
    with lasting_imports():
        from longilesion.assessment import case_response
        from longilesion.case_run import load_models, segment_inputs, with_masks
        from longilesion.course import ResponseRecord
        from longilesion.report import make_report, write_report

    output_console = console()
    # The spinner shows in a terminal only.
    with output_console.status(source.first_step) as status, source.opened() as scans:
        watch = Stopwatch()
        models = load_models(options, watch)
        status.update("reading the scans")
        with watch("read"):
            case = read_case(
                scans.followup,
                scans.baseline,
                scans.lesions,
                baseline_clicks=baseline_clicks,
                followup_clicks=followup_clicks,
                split_components=split_components,
                series=scans.series,
                same_patient=same_patient,
            )
            inputs = with_masks(case, {"primary": scans.followup}, options)
            facts = _with_organs(facts, case, baseline_organs)
        status.update("outlining the lesions")
        segmentation = segment_inputs(inputs, models=with_progress(models, status), options=options, labels=labels)
        case = inputs.case
        response = case_response(case, segmentation, facts)
        with watch("write"):
            if as_dicom:
                written = write_dicom(output, case, segmentation, scans, response)
            else:
                _write_map(output, segmentation.maps["primary"], scans)
        if store:
            status.update("storing")
            source.store(written)
    output_console.print(lesion_table(segmentation.lesions, segmentation.candidates, segmentation.types))
    if response.assessment is not None:
        text = response_text(ResponseRecord.of(response.assessment, number=2, on=None))
        output_console.print(f"response by RECIST 1.1: {text}; research use only", highlight=False, soft_wrap=True)
    if models.types is not None:
        output_console.print(f"types: {STATEMENT}", highlight=False)
    looked_for = [each.prompt.lesion_id for each in segmentation.lesions]
    warn_of_strangers(about, facts, [*looked_for, *segmentation.left_out])
    # Last, so that the map and the table are complete if a report cannot be written.
    if report is not None:
        made = make_report(case, segmentation, seconds=watch.seconds, facts=facts, response=response)
        write_report(report, made)
    if pages.wanted:
        write_case_pages(pages, case, segmentation, scans.names, model=model, facts=facts)


def _check_output(output: Path, source: ScanSource, labels: Labels, *, as_dicom: bool, store: bool) -> None:
    if store and (source.archive is None or not as_dicom):
        raise InputError("--store without an archive, or without results in DICOM; expected --from, and --output X.dcm")
    if as_dicom:
        check_dicom_output(output, source.followup, labels)
    else:
        check_writable_format(output)


def _check_tells_lesions_apart(**given: Path | None) -> None:
    for name, path in given.items():
        if path is not None:
            raise InputError(
                f"--{name} with --labels binary, which tell no lesions apart; expected --labels lesion_ids"
            )


def _with_organs(facts: Mapping[int, Lesion], case: Case, folder: Path | None) -> Mapping[int, Lesion]:
    if folder is None:
        return facts
    # Imported late, as few runs have masks of the baseline's organs.
    from longilesion.lesion_organs import with_lesion_organs

    prior = case.baselines.get("primary")
    if prior is None or prior.lesions is None:
        raise InputError(f"{folder}: --baseline-organs without outlines in the baseline; expected --lesions too")
    return with_lesion_organs(facts, prior.lesions, folder)


def _write_map(output: Path, lesion_map: LesionMap, scans: Scans) -> None:
    with written_together({output: partial(check_lesion_map, written=lesion_map)}) as (temporary,):
        write_lesion_map(temporary, lesion_map, like=open_image(scans.followup, scans.series.followup))
