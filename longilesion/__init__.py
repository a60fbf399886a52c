"""Segmentation of tumours in follow-up CT, given the baseline scan with its lesions, and clicks near them.

from longilesion import segment

result = segment("after.nii.gz", baseline="before.nii.gz", lesions="before_lesions.nii.gz")
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["__version__", "load_ensemble", "read_scan", "segment", "write_lesion_map"]

__version__ = "0.2.0"

if TYPE_CHECKING:
    from longilesion.api import segment
    from longilesion.ensemble import load_ensemble
    from longilesion.images import read_scan, write_lesion_map
else:
    # Imported when they are first asked for: torch takes seconds.
    _MODULES = {
        "load_ensemble": "longilesion.ensemble",
        "read_scan": "longilesion.images",
        "segment": "longilesion.api",
        "write_lesion_map": "longilesion.images",
    }

    def __getattr__(name: str) -> object:
        """One of the public functions."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)
