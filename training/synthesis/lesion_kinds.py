"""Kinds of the seven common types of liver lesions, with their textbook behaviour and what deviates from it.

HU are relative to the liver, to the arteries, or to water, by phase: non-contrast, arterial, venous, delayed.
"""

from __future__ import annotations

from longilesion.diagnosis_settings import LesionType
from training.synthesis.kinetics import LesionKind, Part, PhaseRanges, Range
from training.synthesis.rare_kinds import RARE_KINDS

_WHOLE: Range = (1.0, 1.0)


def _to(end: Range) -> PhaseRanges:
    """The same depth in all phases."""
    return end, end, end, end


_CAPSULE = Part(
    name="capsule",
    relative_to="liver",
    hu=((-15, 0), (-10, 10), (8, 28), (20, 45)),
    ends=_to((0.1, 0.18)),
    sources=("assumption", "assumption", "~LI-RADS", "~LI-RADS"),
)
_HCC_NECROSIS = Part(
    name="necrosis",
    relative_to="water",
    hu=((20, 38), (22, 42), (24, 46), (24, 46)),
    begins=(0.5, 0.75),
    unevenness=(0.1, 0.25),
    sources=("assumption",),
)
_SCAR = Part(
    name="scar",
    relative_to="liver",
    hu=((-20, -8), (-25, 0), (-25, -8), (5, 25)),
    begins=(0.8, 0.92),
    unevenness=(0.12, 0.2),
    grain=11,
    sources=("~RK-FNH", "~RK-FNH", "~CEUS", "~RK-FNH"),
)

_HCC: tuple[LesionKind, ...] = (
    LesionKind(
        name="typical, with capsule",
        lesion_type="hcc",
        share=0.4,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-18, 2), (20, 60), (-22, 4), (-32, -7)),
                sources=("assumption", "~L2004", "~F2011", "P2013"),
            ),
            _CAPSULE,
        ),
        size=(0.8, 2.2),
        edge_mm=(0.6, 1.8),
        texture_hu=(5, 14),
    ),
    LesionKind(
        name="typical, without capsule",
        lesion_type="hcc",
        share=0.25,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-18, 2), (15, 55), (-18, 8), (-28, -4)),
                sources=("assumption", "~L2004", "~F2011", "P2013"),
            ),
        ),
        edge_mm=(1.5, 4.0),
        texture_hu=(4, 12),
    ),
    LesionKind(
        name="large, necrotic",
        lesion_type="hcc",
        share=0.2,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-20, 0), (20, 60), (-20, 5), (-30, -6)),
                sources=("assumption", "~L2004", "~F2011", "P2013"),
            ),
            _HCC_NECROSIS,
            _CAPSULE,
        ),
        size=(1.2, 2.4),
        lumpiness=0.25,
        texture_hu=(8, 18),
    ),
    LesionKind(
        name="hypovascular",
        lesion_type="hcc",
        share=0.15,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-18, 0), (-15, 8), (-28, -6), (-30, -8)),
                sources=("assumption", "~SE2010", "~SE2010", "~SE2010"),
            ),
        ),
        texture_hu=(4, 12),
    ),
)

_ICC: tuple[LesionKind, ...] = (
    LesionKind(
        name="mass-forming, rim then fill-in",
        lesion_type="icc",
        share=0.75,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-28, -12), (-40, -18), (-60, -30), (-30, -8)),
                sources=("~V2000",),
            ),
            Part(
                name="filling",
                relative_to="liver",
                hu=((-28, -12), (-5, 28), (-22, 8), (4, 32)),
                ends=((0.0, 0.0), (0.12, 0.28), (0.25, 0.55), (0.55, 1.1)),
                unevenness=(0.12, 0.22),
                grain=5,
                sources=("~V2000",),
            ),
        ),
        size=(1.0, 2.4),
        edge_mm=(2.0, 5.0),
        lumpiness=0.4,
        elongation=0.25,
        texture_hu=(5, 12),
    ),
    LesionKind(
        name="hypervascular",
        lesion_type="icc",
        share=0.25,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-25, -8), (5, 40), (-18, 8), (0, 28)),
                sources=("~PMC8870737",),
            ),
        ),
        edge_mm=(1.5, 4.0),
        lumpiness=0.35,
        texture_hu=(5, 12),
    ),
)

_METASTASIS: tuple[LesionKind, ...] = (
    LesionKind(
        name="hypovascular, with rim",
        lesion_type="metastasis",
        share=0.5,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-28, -8), (-38, -14), (-65, -32), (-50, -18)),
                sources=("~SK-M",),
            ),
            Part(
                name="rim",
                relative_to="liver",
                hu=((-25, -8), (0, 32), (-22, 10), (-25, 0)),
                ends=_to((0.18, 0.35)),
                unevenness=(0.03, 0.1),
                sources=("~A2003",),
            ),
        ),
        edge_mm=(1.5, 4.0),
        lumpiness=0.25,
    ),
    LesionKind(
        name="hypovascular, without rim",
        lesion_type="metastasis",
        share=0.25,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-25, -6), (-32, -8), (-55, -25), (-42, -12)),
                sources=("~SK-M",),
            ),
        ),
        edge_mm=(1.5, 5.0),
        lumpiness=0.25,
    ),
    LesionKind(
        name="hypervascular",
        lesion_type="metastasis",
        share=0.25,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-25, -5), (15, 60), (-30, 2), (-30, -2)),
                sources=("~N2017", "~N2017", "~N2017", "assumption"),
            ),
        ),
        edge_mm=(1.0, 3.0),
        texture_hu=(4, 12),
    ),
)

_HAEMANGIOMA: tuple[LesionKind, ...] = (
    LesionKind(
        name="cavernous",
        lesion_type="haemangioma",
        share=0.65,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-28, -12), (-45, -22), (-65, -35), (-45, -20)),
                sources=("~SK-H",),
            ),
            Part(
                name="nodules",
                relative_to="artery",
                hu=((-12, 8), (-190, -80), (-45, -5), (-15, 5)),
                ends=((0.0, 0.0), (0.06, 0.22), (0.3, 0.65), (0.7, 1.3)),
                unevenness=(0.2, 0.35),
                grain=7,
                sources=("~SK-H", "~HB2010", "~HB2010", "~HB2010"),
            ),
        ),
        size=(0.8, 2.4),
        edge_mm=(0.6, 1.5),
        lumpiness=0.25,
        texture_hu=(2, 5),
    ),
    LesionKind(
        name="flash-filling",
        lesion_type="haemangioma",
        share=0.2,
        parts=(
            Part(
                name="body",
                relative_to="artery",
                hu=((-12, 8), (-190, -90), (-45, -5), (-15, 5)),
                sources=("~SK-H", "~SK-F", "~SK-F", "~SK-F"),
            ),
        ),
        size=(0.6, 1.1),
        edge_mm=(0.6, 1.5),
        texture_hu=(1, 4),
    ),
    LesionKind(
        name="sclerosed",
        lesion_type="haemangioma",
        share=0.15,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-28, -10), (-40, -16), (-55, -25), (-38, -10)),
                sources=("~DU",),
            ),
            Part(
                name="rim",
                relative_to="liver",
                hu=((-28, -10), (-15, 15), (-20, 10), (-10, 18)),
                ends=((0.0, 0.0), (0.05, 0.15), (0.1, 0.25), (0.15, 0.45)),
                unevenness=(0.12, 0.25),
                grain=6,
                sources=("~DU",),
            ),
        ),
        edge_mm=(1.0, 2.5),
        lumpiness=0.3,
    ),
)

_FNH_BODY = Part(
    name="body",
    relative_to="liver",
    hu=((-12, 4), (25, 70), (-8, 16), (-6, 8)),
    sources=("RK2001", "RK2001", "RK2001", "~RK-FNH"),
)
_FNH: tuple[LesionKind, ...] = (
    LesionKind(
        name="with scar",
        lesion_type="fnh",
        share=0.5,
        parts=(_FNH_BODY, _SCAR),
        size=(1.0, 2.2),
        edge_mm=(0.8, 2.0),
        texture_hu=(2, 5),
    ),
    LesionKind(
        name="without scar",
        lesion_type="fnh",
        share=0.5,
        parts=(_FNH_BODY,),
        size=(0.7, 1.6),
        edge_mm=(0.8, 2.0),
        texture_hu=(2, 5),
    ),
)

_CALCIFICATION: tuple[LesionKind, ...] = (
    LesionKind(
        name="dense",
        lesion_type="calcification",
        share=0.6,
        parts=(Part(name="body", relative_to="water", hu=_to((220, 700)), sources=("~CI2021",)),),
        size=(0.35, 0.7),
        edge_mm=(0.5, 1.0),
        lumpiness=0.3,
        texture_hu=(10, 60),
        kept_structure=0.0,
    ),
    LesionKind(
        name="coarse, in scarred tissue",
        lesion_type="calcification",
        share=0.4,
        parts=(
            Part(
                name="body",
                relative_to="liver",
                hu=((-20, 5), (-25, 5), (-40, -5), (-25, 5)),
                sources=("assumption",),
            ),
            Part(
                name="calcium",
                relative_to="water",
                hu=_to((180, 500)),
                begins=(0.3, 0.5),
                unevenness=(0.15, 0.3),
                grain=8,
                sources=("~CI2021",),
            ),
        ),
        size=(0.5, 1.0),
        lumpiness=0.3,
        texture_hu=(5, 25),
    ),
)

_CYST: tuple[LesionKind, ...] = (
    LesionKind(
        name="simple",
        lesion_type="cyst",
        share=0.85,
        parts=(Part(name="body", relative_to="water", hu=_to((-3, 14)), sources=("ECR2019",)),),
        size=(0.6, 2.2),
        edge_mm=(0.4, 1.0),
        lumpiness=0.05,
        elongation=0.1,
        texture_hu=(0, 2),
        kept_structure=0.0,
    ),
    LesionKind(
        name="with pseudo-enhancement or protein",
        lesion_type="cyst",
        share=0.15,
        parts=(
            Part(
                name="body",
                relative_to="water",
                hu=((8, 25), (12, 30), (15, 35), (12, 30)),
                sources=("ACR",),
            ),
        ),
        size=(0.5, 1.2),
        edge_mm=(0.4, 1.2),
        lumpiness=0.1,
        texture_hu=(0, 3),
        kept_structure=0.0,
    ),
)

KINDS: tuple[LesionKind, ...] = (
    *_HCC,
    *_ICC,
    *_METASTASIS,
    *_HAEMANGIOMA,
    *_FNH,
    *_CALCIFICATION,
    *_CYST,
    *RARE_KINDS,
)


def kinds_of(lesion_type: LesionType) -> tuple[LesionKind, ...]:
    """The kinds of a type."""
    return tuple(kind for kind in KINDS if kind.lesion_type == lesion_type)
