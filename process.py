"""Segments cases in the layout of Grand Challenge, from /input to /output: one, or with --serve one for each request.

Progress is logged to stdout. Grand Challenge marks a job that writes to stderr with a warning, and shows the user the
last line of stderr when the job fails (the exit code is not 0).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import get_args

from longilesion.program import run_program
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports, wait_passively

UPLOADED_MODEL = Path("/opt/ml/model")
# The method by which the platform runs the image: exec, a process per case, or invoke.
API_METHOD = "LONGILESION_API_METHOD"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one case, or serves, and returns the exit code."""
    wait_passively()
    # A case does not fail because its log cannot be printed.
    return run_program(partial(_load, arguments), needs_stdout=False)


def _load(arguments: Sequence[str] | None) -> Callable[[], object]:
    # Imported here and below: signals are handled by now, and torch reads the wait policy of threads once, on import.
    with lasting_imports():
        import longilesion.case_run  # noqa: F401

    options = _options(arguments)
    _log_to_streams()
    return partial(_serve if options.serve else _run, options)


def _run(options: argparse.Namespace) -> None:
    """Runs one case, as the platform's method exec wants it."""
    _load_job(options)()


def _serve(options: argparse.Namespace) -> None:
    """Runs a case for each request, as the platform's method invoke wants it."""
    from longilesion.service import serve

    serve(partial(_load_job, options), host=options.host, port=options.port)


def _load_job(options: argparse.Namespace) -> Callable[[], None]:
    """Loads the models, and returns what runs a case with them, any number of times."""
    from longilesion.case_run import load_models, run_case
    from longilesion.errors import InputError
    from longilesion.run_options import RunOptions
    from longilesion.timing import Stopwatch

    if options.types is not None and options.report is None:
        raise InputError("--types without a report, where they are written; expected --report too")
    chosen = RunOptions(**{field.name: getattr(options, field.name) for field in fields(RunOptions)})
    loading = Stopwatch()
    models = load_models(chosen, loading)

    def run() -> None:
        watch = Stopwatch()
        watch.seconds |= loading.seconds
        # Only the first case had to wait for them.
        loading.seconds["load"] = 0.0
        run_case(options.input, options.output, options.report, models=models, options=chosen, watch=watch)

    return run


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    from longilesion.bundle import is_bundle
    from longilesion.config import Device, Precision
    from longilesion.run_options import USUAL_TYPES

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
    parser.add_argument(
        "--serve",
        action="store_true",
        default=os.environ.get(API_METHOD) == "invoke",
        help="load the models once and run a case for each POST /invoke; GET /health says when they are loaded "
        f"(default: as {API_METHOD} says, invoke or exec)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve at (default: %(default)s, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=4743, help="port to serve at (default: %(default)s)")
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
