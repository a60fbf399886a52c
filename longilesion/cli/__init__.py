"""The command `longilesion`, for people with image files.

`segment` outlines lesions, `register` shows how two scans lie to each other, `evaluate` scores outlines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import tyro

from longilesion.cli.evaluate import evaluate
from longilesion.cli.register import register
from longilesion.cli.segment import segment
from longilesion.errors import LongilesionError
from longilesion.startup import wait_passively


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code."""
    # The commands import torch when they need it, so this is early enough.
    wait_passively()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"segment": segment, "register": register, "evaluate": evaluate},
            prog="longilesion",
            description="Follows tumours from a baseline CT to a follow-up CT.",
            args=arguments,
        )
    except LongilesionError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
