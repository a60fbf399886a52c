"""Errors whose message can be shown to a user as it is: one line that names what, what was found, what was expected."""

from __future__ import annotations

from pydantic import ValidationError


class LongilesionError(Exception):
    """Any failure that the user can act on."""


class InputError(LongilesionError):
    """A scan, mask, click list, folder or option that cannot be used."""


class BundleError(LongilesionError):
    """A model bundle that is missing, damaged, or made for another version."""


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong with what a file holds, and where in it."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
