"""Where the files lie that come with the code: the shipped model, and the layout of Grand Challenge's folders.

A wheel holds them inside the package. A checkout, an editable install and the container hold them beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


SHIPPED_MODEL = _folder("model")
SOCKETS_FILE = _folder("resources") / "sockets.json"
