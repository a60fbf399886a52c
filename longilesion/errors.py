"""Errors with a message for users, in one line: the file or option, what was found, what was expected."""

from __future__ import annotations

from pydantic import ValidationError


class LongilesionError(Exception):
    """Any failure that the user can act on."""


class InputError(LongilesionError):
    """A scan, mask, click list, folder or option that cannot be used."""


class BundleError(LongilesionError):
    """A model bundle that is missing, damaged, or made for another version."""


def first_error(error: ValidationError) -> str:
    """The first validation error of a file's content, with its location."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
