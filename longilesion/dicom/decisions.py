"""What readers have decided of the lesions of a result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# What separates the parts of a name, and all control characters; and how long a part may be.
_NOT_IN_NAMES = re.compile(r"[\\^=\x00-\x1f\x7f]+")
_NAME_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Who has reviewed the lesions, as far as they say, what was decided of each, and which ones were drawn by hand.

    `is_complete`: something was decided of every lesion.
    """

    readers: tuple[str, ...]
    is_complete: bool
    decisions: Mapping[int, str]
    drawn: frozenset[int] = frozenset()

    @property
    def person_name(self) -> str:
        """The readers as a DICOM name, whose parts are not known; empty where there is none."""
        name = _NOT_IN_NAMES.sub(" ", ", ".join(self.readers))[:_NAME_LENGTH].strip()
        return f"{name}^" if name else ""
