"""The command `longilesion`, for people with image files.

`segment` outlines lesions, `register` shows how two scans lie to each other, `evaluate` scores outlines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from longilesion.program import run_program
from longilesion.startup import wait_passively


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code."""
    # The commands import torch when they need it, so this is early enough.
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

    from longilesion.cli.evaluate import evaluate
    from longilesion.cli.register import register
    from longilesion.cli.segment import segment

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return partial(
        tyro.extras.subcommand_cli_from_dict,
        {"segment": segment, "register": register, "evaluate": evaluate},
        prog="longilesion",
        description="Follows tumours from a baseline CT to a follow-up CT. --version says which release this is.",
        args=given,
    )
