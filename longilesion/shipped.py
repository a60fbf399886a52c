"""Paths of the data files shipped with the code: the model, and the layout of Grand Challenge's folders.

In a wheel they are inside the package; in a checkout, an editable install and the container they are beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


SHIPPED_MODEL = _folder("model")
# The bundle of the network that searches for lesions, beside the model's own files.
DETECTOR_FOLDER = "detector"
# The bundle of the network that tells the types of liver lesions, likewise.
DIAGNOSIS_FOLDER = "diagnosis"
# NiiVue, for the page in three planes.
VIEWER_FILE = _folder("resources") / "niivue.js"
SOCKETS_FILE = _folder("resources") / "sockets.json"
