"""Rare kinds of liver lesions, which together are the type "other"; one is as frequent as another."""

from __future__ import annotations

from typing import Any

from training.synthesis.kinetics import ASSUMPTION, LesionKind, Part, PhaseRanges, Range, Reference


def _part(name: str, relative_to: Reference, hu: PhaseRanges, *sources: str, **geometry: Any) -> Part:
    return Part(name=name, relative_to=relative_to, hu=hu, sources=sources or (ASSUMPTION,), **geometry)


def _kind(name: str, *parts: Part, **look: Any) -> LesionKind:
    return LesionKind(name=name, lesion_type="other", share=1.0, parts=parts, **look)


def _to(end: Range) -> PhaseRanges:
    """The same depth in all phases."""
    return end, end, end, end


_FLUID: PhaseRanges = ((8, 26), (8, 28), (8, 30), (8, 30))

RARE_KINDS: tuple[LesionKind, ...] = (
    _kind(
        "abscess",
        _part("oedema", "liver", ((-25, -8), (-30, -8), (-40, -12), (-15, 5)), "~DT"),
        _part("membrane", "liver", ((-20, -5), (5, 35), (0, 30), (5, 30)), "~DT", begins=(0.15, 0.25)),
        _part("fluid", "water", _FLUID, "ER10428", begins=(0.38, 0.55), unevenness=(0.08, 0.2), grain=6),
        size=(1.0, 2.2),
        lumpiness=0.3,
        edge_mm=(2.0, 5.0),
    ),
    _kind(
        "angiomyolipoma",
        _part("body", "liver", ((-35, -10), (15, 60), (-15, 15), (-25, 5)), "~PMC3467439"),
        _part("fat", "water", _to((-90, -25)), "SP", begins=(0.3, 0.6), unevenness=(0.25, 0.4), grain=6),
        texture_hu=(6, 15),
    ),
    _kind(
        "adenoma",
        _part("body", "liver", ((-14, 10), (-6, 30), (-16, 10), (-18, 5)), "RK2001", "RK2001", "RK2001", "assumption"),
        _part(
            "old blood",
            "liver",
            ((5, 25), (-25, 0), (-40, -15), (-35, -10)),
            "~SK-A",
            begins=(0.55, 0.85),
            unevenness=(0.15, 0.3),
            grain=5,
        ),
        size=(1.2, 2.4),
        texture_hu=(5, 12),
    ),
    _kind(
        "lymphoma",
        _part("body", "liver", ((-25, -8), (-30, -10), (-50, -25), (-40, -15)), "~OM"),
        texture_hu=(1, 4),
        kept_structure=0.5,
        edge_mm=(1.5, 4.0),
    ),
    _kind(
        "inflammatory pseudotumour",
        _part("body", "liver", ((-25, -8), (-25, 10), (-35, -5), (-5, 22))),
        _part(
            "centre",
            "liver",
            ((-30, -12), (-40, -20), (-65, -30), (-50, -20)),
            begins=(0.4, 0.7),
            unevenness=(0.1, 0.25),
        ),
        lumpiness=0.4,
        edge_mm=(3.0, 6.0),
    ),
    _kind(
        "epithelioid haemangioendothelioma",
        _part("body", "liver", ((-28, -10), (-25, -5), (-30, -8), (-20, 5)), "~II2021"),
        _part(
            "halo",
            "liver",
            ((-28, -10), (-30, -10), (-50, -20), (-40, -15)),
            "~RB2016",
            begins=(0.15, 0.25),
            ends=_to((0.4, 0.55)),
        ),
        _part("centre", "liver", ((-35, -18), (-45, -22), (-45, -15), (-5, 20)), "~RB2016", begins=(0.55, 0.7)),
        edge_mm=(1.0, 3.0),
    ),
    _kind(
        "hydatid cyst",
        _part("wall", "liver", ((-10, 15), (-20, 5), (-30, 0), (-20, 5)), "~RK-HY"),
        _part("fluid", "water", _to((3, 28)), "~RK-HY", begins=(0.12, 0.2)),
        _part("daughter cysts", "water", _to((-5, 10)), "~RK-HY", begins=(0.35, 0.6), unevenness=(0.3, 0.45), grain=6),
        size=(1.2, 2.4),
        lumpiness=0.08,
        edge_mm=(0.5, 1.2),
        kept_structure=0.0,
    ),
    _kind(
        "biliary cystadenoma",
        _part("septa", "liver", ((-30, -10), (-20, 10), (-30, 5), (-20, 10)), "~ECR2014"),
        _part("fluid", "water", _to((0, 25)), "~ECR2014", begins=(0.08, 0.2), unevenness=(0.2, 0.35), grain=6),
        size=(1.2, 2.4),
        edge_mm=(0.5, 1.5),
        kept_structure=0.0,
    ),
    _kind(
        "focal fat",
        _part("body", "liver", ((-40, -12), (-45, -15), (-60, -15), (-45, -15)), "FF"),
        lumpiness=0.55,
        elongation=0.4,
        edge_mm=(3.0, 7.0),
        texture_hu=(1, 4),
        kept_structure=1.0,
    ),
    _kind(
        "angiosarcoma",
        _part("body", "liver", ((-25, -5), (-30, -5), (-45, -15), (-30, 0)), "~PIC2015"),
        _part(
            "blood spaces",
            "artery",
            ((0, 25), (-210, -110), (-70, -20), (-35, 0)),
            "~PIC2015",
            begins=(0.45, 0.75),
            unevenness=(0.35, 0.5),
            grain=9,
        ),
        size=(1.2, 2.4),
        lumpiness=0.4,
        texture_hu=(8, 18),
    ),
    _kind(
        "peliosis",
        _part("body", "liver", ((-22, -5), (-30, -8), (-25, 5), (-5, 22)), "~PEL"),
        _part(
            "centre",
            "artery",
            ((-12, 8), (-220, -130), (-55, -15), (-20, 5)),
            "~PEL",
            begins=(0.35, 0.6),
            unevenness=(0.15, 0.3),
            grain=6,
        ),
        edge_mm=(2.0, 4.0),
    ),
    _kind(
        "haematoma",
        _part("body", "water", ((45, 80), (45, 82), (45, 85), (45, 85)), "SP"),
        _part("serum", "water", _to((15, 40)), begins=(0.3, 0.6), unevenness=(0.25, 0.4), grain=5),
        lumpiness=0.35,
        edge_mm=(1.5, 3.5),
        kept_structure=0.0,
    ),
    _kind(
        "undifferentiated sarcoma",
        _part("body", "water", ((15, 35), (20, 45), (22, 50), (25, 55)), "~MR2001"),
        _part(
            "septa",
            "liver",
            ((-30, -10), (-20, 20), (-25, 10), (-10, 15)),
            begins=(0.1, 0.4),
            ends=_to((0.5, 0.8)),
            unevenness=(0.3, 0.5),
            grain=8,
        ),
        size=(1.5, 2.6),
        texture_hu=(6, 14),
    ),
    _kind(
        "neuroendocrine carcinoma",
        _part("body", "liver", ((-25, -5), (20, 65), (-15, 15), (-20, 8)), "~N2017"),
        _part(
            "cystic centre",
            "water",
            ((10, 30), (12, 35), (14, 38), (14, 38)),
            begins=(0.6, 0.85),
            unevenness=(0.1, 0.25),
        ),
        size=(1.0, 2.2),
        texture_hu=(5, 12),
    ),
    _kind(
        "biliary hamartoma",
        _part("body", "water", ((10, 35), (15, 40), (18, 45), (18, 48)), "~OM"),
        size=(0.35, 0.6),
        edge_mm=(1.0, 2.5),
    ),
)
