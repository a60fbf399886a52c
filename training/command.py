"""Shared parts of the commands of training: arguments, log, and one line for unusable input."""

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
    """Reads the command line and runs the job; returns 1, with a line on stderr, where the input cannot be used."""
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stdout)
    # The library logs a line per stage of each case, which would hide training's own lines.
    logging.getLogger("training").setLevel(logging.INFO)
    # The tails of the click heat maps are denormal numbers, which a CPU multiplies many times slower.
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
