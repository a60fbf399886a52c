"""Segments one case in the layout of Grand Challenge: from /input to /output, one process per case.

Progress is logged to stdout. Grand Challenge marks a job that writes to stderr with a warning, and shows the user the
last line of stderr when the job fails (the exit code is not 0).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from longilesion.program import run_program
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports, wait_passively

UPLOADED_MODEL = Path("/opt/ml/model")
# Stands for the model's own bundle of lesion types.
USUAL_TYPES = Path("(the model's own)")

if TYPE_CHECKING:
    from longilesion.case import Case, Scan, ScanName
    from longilesion.diagnosis.bundle import DiagnosisModel
    from longilesion.timing import Stopwatch

_log = logging.getLogger("process")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one case and returns the exit code."""
    wait_passively()
    # A case does not fail because its log cannot be printed.
    return run_program(partial(_load, arguments), needs_stdout=False)


def _load(arguments: Sequence[str] | None) -> Callable[[], object]:
    # Imported here and below: signals are handled by now, and torch reads the wait policy of threads once, on import.
    with lasting_imports():
        import longilesion.pipeline
        import longilesion.report  # noqa: F401

    options = _options(arguments)
    _log_to_streams()
    return partial(_run, options)


def _run(options: argparse.Namespace) -> None:
    from longilesion.ensemble import load_detector, load_ensemble
    from longilesion.errors import InputError
    from longilesion.files import check_replaceable, check_writable
    from longilesion.grand_challenge import check_outputs, read_case, write_outputs
    from longilesion.organs import check_search_options, confined
    from longilesion.pipeline import segment_case, with_types
    from longilesion.report import make_report, write_report
    from longilesion.timing import Stopwatch

    check_search_options(
        find_new=options.find_new,
        organs=options.organs,
        organ=options.organ,
        detector=options.detector,
        types=options.types,
    )
    if options.types is not None and options.report is None:
        raise InputError("--types without a report, where they are written; expected --report too")
    check_writable(options.output)
    if options.report is not None:
        check_replaceable(options.report)
    watch = Stopwatch()
    with watch("load"):
        ensemble = load_ensemble(options.model, device=options.device, precision=options.precision)
    _log.info("loaded %d networks from %s in %.1f s", len(ensemble.networks), options.model, watch.seconds["load"])
    with watch("read"):
        case, followup_files = read_case(options.input)
        check_outputs(options.output, followup_files)
    counts = len(case.baselines), len(case.followups), len(case.clicks)
    _log.info(
        "read %d baseline scans, %d follow-up scans, %d clicked lesions in %.1f s", *counts, watch.seconds["read"]
    )
    typing = None if options.types is None else _typing(options, case, watch)
    search = None
    if options.find_new:
        from longilesion.new_lesions import Search

        with watch("load"):
            detector = load_detector(
                ensemble, options.detector, model=options.model, device=options.device, precision=options.precision
            )
        search = Search(detector=detector)
        if options.organs is not None:
            with watch("read"):
                case = confined(case, options.organs, options.organ)
        _log.info("searching with %s in %s", detector.name, options.organs or "the whole body")
    segmentation = segment_case(case, ensemble, refine_clicks=options.refine_clicks, search=search)
    if typing is not None:
        segmentation = with_types(segmentation, *typing)
    outlined = sum(outcome.volume_followup_ml > 0 for outcome in segmentation.lesions)
    spent = sum(segmentation.seconds.values())
    _log.info("outlined %d of %d lesions in %.1f s", outlined, len(segmentation.lesions), spent)
    with watch("write"):
        write_outputs(options.output, segmentation.maps, followup_files=followup_files)
    _log.info("wrote %d lesion maps to %s in %.1f s", len(segmentation.maps), options.output, watch.seconds["write"])
    if options.report is None:
        return
    try:
        write_report(options.report, make_report(case, segmentation, seconds=watch.seconds))
    except InputError as error:
        # A non-zero exit code would discard the lesion maps.
        _log.warning("%s; the lesion maps are complete", error)


def _typing(
    options: argparse.Namespace, case: Case, watch: Stopwatch
) -> tuple[Mapping[ScanName, Scan], DiagnosisModel]:
    """The follow-up scans with their livers, and the model of lesion types."""
    from longilesion.diagnosis.bundle import load_diagnosis_bundle, usual_bundle
    from longilesion.diagnosis_settings import STATEMENT
    from longilesion.organs import LIVER, confined

    with watch("load"):
        folder = usual_bundle(options.model) if options.types == USUAL_TYPES else options.types
        model = load_diagnosis_bundle(folder, options.device, options.precision)
    with watch("read"):
        livers = confined(case, options.organs, [LIVER]).followups
    _log.info("telling types of liver lesions with %s: %s", model.name, STATEMENT)
    return livers, model


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    from longilesion.bundle import is_bundle
    from longilesion.config import Device, Precision

    parser = argparse.ArgumentParser(description="Segments the lesions of one Grand Challenge case.")
    parser.add_argument("--input", type=Path, default=Path("/input"), help="folder of the case (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("/output"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=UPLOADED_MODEL if is_bundle(UPLOADED_MODEL) else SHIPPED_MODEL,
        help=f"model bundle (default: {UPLOADED_MODEL} if it holds one, else {SHIPPED_MODEL})",
    )
    parser.add_argument("--device", choices=get_args(Device), default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument(
        "--refine-clicks",
        action="store_true",
        help="let registration move follow-up clicks that it contradicts confidently (default: off)",
    )
    parser.add_argument(
        "--find-new",
        action="store_true",
        help="search for lesions that nobody clicked; candidates get ids after the highest one (default: off)",
    )
    parser.add_argument(
        "--organs",
        type=Path,
        help="folder of organ masks on the follow-up's voxels, to which the search is confined; of two follow-up "
        "scans, each has its own in a subfolder, primary or secondary (default: the whole body)",
    )
    parser.add_argument(
        "--organ",
        action="append",
        default=[],
        help="name of a mask to use, such as liver; may be repeated (default: all)",
    )
    parser.add_argument(
        "--detector",
        type=Path,
        help="bundle that searches (default: the folder detector of the model, or of the shipped one, else the model)",
    )
    parser.add_argument(
        "--types",
        type=Path,
        nargs="?",
        const=USUAL_TYPES,
        help="tell the types of the lesions in the liver, of which --organs has a mask, in the report, by this bundle; "
        "without its name, by the folder diagnosis of the model, or of the shipped one; research use only, trained on "
        "synthetic lesions (default: off)",
    )
    parser.add_argument("--report", type=Path, help="JSON file for the run report (default: none)")
    return parser.parse_args(arguments)


def _log_to_streams() -> None:
    """Sends INFO to stdout and warnings to stderr, except Python's own warnings, which are for developers."""
    ordinary, serious = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    ordinary.addFilter(lambda record: not _is_serious(record))
    serious.addFilter(_is_serious)
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ordinary, serious], force=True)


def _is_serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING and record.name != "py.warnings"


if __name__ == "__main__":
    sys.exit(main())
