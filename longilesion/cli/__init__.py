"""The command `longilesion`, for people with image files.

`segment` outlines lesions, `register` shows how two scans lie to each other, `evaluate` scores outlines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import tyro

from longilesion.cli.evaluate import evaluate
from longilesion.cli.hints import hints
from longilesion.cli.register import register
from longilesion.cli.segment import segment
from longilesion.errors import LongilesionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"segment": segment, "register": register, "evaluate": evaluate},
            prog="longilesion",
            description="Follows tumours from a baseline CT to a follow-up CT.",
            args=arguments,
        )
    except SystemExit as stopped:
        # The parser has said what it does not know; the last line says what is probably meant.
        for hint in hints(sys.argv[1:] if arguments is None else arguments) if stopped.code else ():
            print(hint, file=sys.stderr)
        raise
    except LongilesionError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
