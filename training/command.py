"""What the commands of training share: their arguments, their log, and one line for what cannot be used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
import tyro

from longilesion.errors import LongilesionError

_Arguments = TypeVar("_Arguments")


def run_command(job: Callable[[_Arguments], object], arguments: type[_Arguments], description: str | None) -> int:
    """Reads the command line and does the job; 1, with a line on stderr, where the input cannot be used."""
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stdout)
    # The library's lines, one per stage of each case, would bury training's own.
    logging.getLogger("training").setLevel(logging.INFO)
    # The far tails of the click heat maps are denormal numbers, which a CPU multiplies many times slower.
    torch.set_flush_denormal(True)
    try:
        job(tyro.cli(arguments, description=description))
    except LongilesionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
