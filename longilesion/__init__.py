"""Segmentation of tumours in follow-up CT, given the baseline scan with its lesions, and clicks near them.

`segment` outlines the lesions of files, `load_ensemble` reads a model for many cases; `diagnose` tells the types of
liver lesions, `load_diagnosis_bundle` reads a model for that; `read_scan` and `write_lesion_map` read and write images.
docs/python.md shows them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "__version__",
    "diagnose",
    "load_diagnosis_bundle",
    "load_ensemble",
    "read_scan",
    "segment",
    "write_lesion_map",
]

__version__ = "0.2.0"

if TYPE_CHECKING:
    from longilesion.api import diagnose, segment
    from longilesion.diagnosis.bundle import load_diagnosis_bundle
    from longilesion.ensemble import load_ensemble
    from longilesion.images import read_scan, write_lesion_map
else:
    # Imported on first access: torch takes seconds to load.
    _MODULES = {
        "diagnose": "longilesion.api",
        "load_diagnosis_bundle": "longilesion.diagnosis.bundle",
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
