"""The command `longilesion`, for use on image files.

`segment` outlines lesions in a follow-up scan, `follow` in any number of scans, `cohort` in many cases; `review` lets
a person confirm and correct them in the browser; `diagnose` tells the types of liver lesions, `register` registers two
scans and draws the result, `evaluate` scores outlines, `evaluate-diagnosis` types of liver lesions, `fetch` and
`store` go to an archive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from longilesion.program import run_program
from longilesion.startup import wait_passively


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code."""
    # Takes effect, as the commands import torch only when they need it.
    wait_passively()
    return run_program(partial(_load, arguments), needs_stdout=True)


def _load(arguments: Sequence[str] | None) -> Callable[[], object]:
    # Imported here, where a signal is handled.
    import logging
    import sys

    from longilesion import __version__

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        return partial(print, f"longilesion {__version__}")

    import tyro

    from longilesion.cli.archive import fetch, store
    from longilesion.cli.cohort import cohort
    from longilesion.cli.diagnose import diagnose
    from longilesion.cli.evaluate import evaluate
    from longilesion.cli.evaluate_diagnosis import evaluate_diagnosis
    from longilesion.cli.follow import follow
    from longilesion.cli.register import register
    from longilesion.cli.review import review
    from longilesion.cli.segment import segment

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    command = partial(
        tyro.extras.subcommand_cli_from_dict,
        {
            "segment": segment,
            "follow": follow,
            "cohort": cohort,
            "review": review,
            "diagnose": diagnose,
            "register": register,
            "evaluate": evaluate,
            "evaluate-diagnosis": evaluate_diagnosis,
            "fetch": fetch,
            "store": store,
        },
        prog="longilesion",
        description="Follows tumours from a baseline CT to a follow-up CT. --version says which release this is.",
        args=given,
    )
    return partial(_run, command, given)


def _run(command: Callable[[], object], arguments: Sequence[str]) -> None:
    import sys

    from longilesion.cli.hints import hints

    try:
        command()
    except SystemExit as stopped:
        # The parser has reported the unknown option; the last line suggests the one that was probably meant.
        for hint in hints(arguments) if stopped.code else ():
            print(hint, file=sys.stderr)
        raise
