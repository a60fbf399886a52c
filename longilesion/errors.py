"""Errors whose message can be shown to a user as it is: one line that names what, what was found, what was expected."""


class LongilesionError(Exception):
    """Any failure that the user can act on."""


class InputError(LongilesionError):
    """A scan, mask, click list, folder or option that cannot be used."""


class BundleError(LongilesionError):
    """A model bundle that is missing, damaged, or made for another version."""
