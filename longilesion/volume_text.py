"""Volumes as text for people."""

from __future__ import annotations

_LEAST_ML = 0.001


def volume_text(ml: float) -> str:
    """Millilitres to three significant digits, without exponents; never 0 for a lesion with voxels."""
    if 0 < ml < _LEAST_ML:
        return f"<{_LEAST_ML:g}"
    return f"{ml:.0f}" if ml >= 100 else f"{ml:.3g}"
