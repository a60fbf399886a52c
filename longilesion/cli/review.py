"""`longilesion review`: a page in the browser in which a person confirms or corrects where each lesion is."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from longilesion.case_files import SeriesChoice, check_outputs
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longilesion.response import Lesion
    from longilesion.review.session import Patient

_NEEDED = ("fastapi", "uvicorn")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where the patient's files are: a case in the layout of /input, or single files."""

    case: Path | None
    followup: Path | None
    baseline: Path | None
    lesions: Path | None
    baseline_clicks: Path | None
    followup_clicks: Path | None
    series: SeriesChoice
    split_components: bool
    same_patient: bool

    @property
    def by_role(self) -> tuple[Path | None, ...]:
        """All in a fixed order, None for those that are not given."""
        return self.case, self.followup, self.baseline, self.lesions, self.baseline_clicks, self.followup_clicks

    @property
    def paths(self) -> list[Path]:
        """All that are given."""
        return [path for path in self.by_role if path is not None]


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
    files = _Files(
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
    _check_files(files, find_new=find_new)
    check_outputs([output], inputs=files.paths)
    check_search_options(find_new=find_new, organs=organs, organ=organ, detector=detector, types=None)
    _check_apart(output, [*files.paths, *(path for path in (model, organs, detector) if path is not None)])
    if not read_only:
        check_writable(output)
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
                patient = _read(files, watch, facts)
                scans = {name: scan.path for name, scan in patient.scans.items()}
                patient = replace(patient, case=with_masks(patient.case, scans, options).case)
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


def _check_files(files: _Files, *, find_new: bool) -> None:
    if files.case is not None:
        if len(files.paths) > 1:
            raise InputError(f"{files.case}: a case, and {files.paths[1]}; expected a case or single files")
        return
    if files.followup is None:
        raise InputError("nothing to review; expected a case, or --followup with --lesions or clicks")
    if not find_new and files.lesions is None and files.baseline_clicks is None and files.followup_clicks is None:
        raise InputError("nothing to look for; expected --lesions, --baseline-clicks, --followup-clicks or --find-new")


def _check_apart(output: Path, inputs: list[Path]) -> None:
    """Raises InputError where the journal would be among the files by which a review is known."""
    inside = output.resolve()
    for path in inputs:
        if path.is_dir() and path.resolve() in (inside, *inside.parents):
            raise InputError(f"{output}: lies in {path}, one of the inputs; expected a folder outside")


def _read(files: _Files, watch: Stopwatch, facts: Mapping[int, Lesion]) -> Patient:
    from longilesion import case_files, grand_challenge
    from longilesion.images import open_image
    from longilesion.review.session import Patient

    if files.case is not None:
        case, scans = grand_challenge.read_case(files.case)
        return Patient(
            case=case,
            scans={name: open_image(path) for name, path in scans.items()},
            seconds=watch.seconds,
            facts=facts,
        )
    assert files.followup is not None
    case = case_files.read_case(
        files.followup,
        files.baseline,
        files.lesions,
        baseline_clicks=files.baseline_clicks,
        followup_clicks=files.followup_clicks,
        split_components=files.split_components,
        series=files.series,
        same_patient=files.same_patient,
    )
    scan = open_image(files.followup, files.series.followup)
    return Patient(case=case, scans={"primary": scan}, seconds=watch.seconds, facts=facts)
