"""`longilesion review`: a page in the browser in which a person confirms or corrects where each lesion is."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import tyro

from longilesion.case_files import SeriesChoice, check_outputs
from longilesion.cli.dicom_output import review_dicom
from longilesion.cli.review_files import ReviewFiles, check_apart
from longilesion.cli.terminal import console, with_progress
from longilesion.config import Device, Precision
from longilesion.errors import InputError
from longilesion.files import check_writable
from longilesion.lesion_facts import read_lesion_facts, warn_of_strangers
from longilesion.organs import check_search_options
from longilesion.run_options import RunOptions
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports
from longilesion.timing import Stopwatch

_NEEDED = ("fastapi", "uvicorn")


def review(
    case: tyro.conf.Positional[Path | None] = None,
    /,
    *,
    output: Path,
    followup: Path | None = None,
    baseline: Path | None = None,
    lesions: Path | None = None,
    baseline_clicks: Path | None = None,
    followup_clicks: Path | None = None,
    baseline_series: str | None = None,
    followup_series: str | None = None,
    same_patient: bool = False,
    split_components: bool = False,
    find_new: bool = False,
    organs: Path | None = None,
    organ: tuple[str, ...] = (),
    detector: Path | None = None,
    about: Path | None = None,
    dicom: bool = False,
    model: Path = SHIPPED_MODEL,
    device: Device = "auto",
    precision: Precision = "auto",
    reader: str = "",
    read_only: bool = False,
    port: int = 0,
    no_browser: bool = False,
) -> None:
    """Review the lesions of a follow-up scan in the browser: confirm or move each, draw, add and remove.

    The page is for this machine alone; its address has a secret. Every decision is on the disk before the page shows
    it. Started again with the same output, a review goes on where it was. For research use only.

    Args:
        case: Folder of a case in the layout of Grand Challenge's /input, in place of single files.
        output: Folder for the journal of decisions and, once the review is finished, the lesion map, the run report and
            review.json.
        followup: Scan to outline the lesions in, as for `longilesion segment`; so are the other files.
        baseline: Earlier scan of the same patient.
        lesions: Lesions outlined in the baseline scan.
        baseline_clicks: A point on each lesion in the baseline scan.
        followup_clicks: A point on or near each lesion in the follow-up scan.
        baseline_series: Number or UID of the baseline's DICOM series, where its folder has several.
        followup_series: The same of the follow-up scan.
        same_patient: Accept DICOM scans whose PatientIDs differ, or whose dates run backwards.
        split_components: Give each connected component of --lesions its own id, the largest 1.
        find_new: Search the follow-up scan for lesions that nobody clicked; they are listed apart.
        organs: Folder of organ masks on the follow-up scan's voxels, to which the search is confined.
        organ: Names of the masks to use; all where none is given.
        detector: Folder of the model that searches.
        about: Table (.csv) of what is known of lesions, for the response.
        dicom: Write the result in DICOM, too, as `longilesion segment` does: a segmentation (SEG) and a report (SR), on
            the images of the follow-up, with what was decided and by whom.
        model: Folder with the model's settings and weights.
        device: Where the networks run; auto takes a GPU if there is one.
        precision: Number format of the networks; auto takes the fastest that the device has.
        reader: Who decides, for the record.
        read_only: Show a review without changing anything.
        port: Of the server on this machine; 0 takes a free one.
        no_browser: Print the address and open no browser.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"longilesion review needs {' and '.join(missing)}; expected `pip install 'longilesion[review]'` first"
        )
    files = ReviewFiles(
        case=case,
        followup=followup,
        baseline=baseline,
        lesions=lesions,
        baseline_clicks=baseline_clicks,
        followup_clicks=followup_clicks,
        series=SeriesChoice(baseline=baseline_series, followup=followup_series),
        split_components=split_components,
        same_patient=same_patient,
    )
    files.check(find_new=find_new)
    check_outputs([output], inputs=files.paths)
    check_search_options(find_new=find_new, organs=organs, organ=organ, detector=detector, types=None)
    check_apart(output, [*files.paths, *(path for path in (model, organs, detector) if path is not None)])
    if not read_only:
        check_writable(output)
    if dicom:
        files.check_dicom(output)
    facts = read_lesion_facts(about)
    options = RunOptions(
        model=model,
        device=device,
        precision=precision,
        find_new=find_new,
        organs=organs,
        organ=organ,
        detector=detector,
    )
    with lasting_imports():
        from longilesion import __version__
        from longilesion.case_run import load_models, with_masks
        from longilesion.fingerprint import fingerprint
        from longilesion.review.decisions import Start
        from longilesion.review.guard import HOST
        from longilesion.review.journal import Journal
        from longilesion.review.server import make_app
        from longilesion.review.serving import listen, serve
        from longilesion.review.session import Session

    output_console = console()
    with ExitStack() as stack:
        listening = stack.enter_context(listen(port))
        with output_console.status("reading the scans") as status:
            named = (device, precision, split_components, find_new, organ, files.series)
            start = Start(
                version=__version__,
                at=datetime.now(UTC),
                # A file in another role is another review.
                fingerprint=fingerprint(__version__, *named, model, organs, detector, *files.by_role),
            )
            # First of all, as it may be of another review, or be open in one.
            journal = Journal(output, start, is_read_only=read_only)
            stack.callback(journal.close)
            watch = Stopwatch()
            with watch("read"):
                patient = files.read(watch, facts)
                scans = {name: scan.path for name, scan in patient.scans.items()}
                patient = replace(
                    patient,
                    case=with_masks(patient.case, scans, options).case,
                    dicom=review_dicom(files.scans) if dicom else None,
                )
            status.update("loading the model")
            models = with_progress(load_models(options, watch), status)
            status.update("outlining the lesions")
            session = Session(
                patient, models.ensemble, journal, search=models.search, reader=reader, is_read_only=read_only
            )
            stack.callback(session.close)
        warn_of_strangers(about, facts, session.state.lesions)
        token = secrets.token_urlsafe(32)
        bound = listening.getsockname()[1]
        app = make_app(session, output, token=token, port=bound)
        address = f"http://{HOST}:{bound}/?token={token}"
        output_console.print(f"review: {address}", highlight=False, soft_wrap=True)
        output_console.print("Ctrl-C ends it; everything that was decided is kept", highlight=False)
        serve(app, listening, opens=None if no_browser else address)
