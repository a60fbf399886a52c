"""Choice of a real lesion's shape for a site: of lesions outlined in the volumes, and of a file of lesion shapes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from training.synthesis.lesions import Tissue
from training.synthesis.shape_library import LYMPH_NODE, MIXED, TYPES, LibraryShape, ShapeLibrary
from training.synthesis.sources import RealLesion

_TYPE_OF_TISSUE: dict[Tissue, str] = {"lung": "lung", "bone": "bone"}
_ORGANS = tuple(each for each in TYPES if each not in (MIXED, LYMPH_NODE, *_TYPE_OF_TISSUE.values()))


RealShape: TypeAlias = RealLesion | LibraryShape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealShapes:
    """The shapes for a volume; those outlined in volumes are of no type. `organs` are the names of its masks."""

    outlined: Sequence[RealShape] = ()
    of_file: ShapeLibrary | None = None
    organs: Collection[str] = ()

    def fitting(self, tissue: Tissue, *, organ: str | None = None, is_node: bool = False) -> Sequence[RealShape]:
        """The shapes for a site.

        Lymph nodes have shapes of nodes alone. Other lesions have mixed shapes, or those of their place: of lung, of
        bone, of an organ. In soft tissue outside all masks, this includes the organs of which the volume has no mask.
        """
        if is_node:
            return self._of_type(LYMPH_NODE)
        types = [MIXED]
        if tissue in _TYPE_OF_TISSUE:
            types.append(_TYPE_OF_TISSUE[tissue])
        elif tissue == "soft" and organ is not None:
            types += [each for each in _ORGANS if each in organ.lower()]
        elif tissue == "soft":
            types += [each for each in _ORGANS if not any(each in name.lower() for name in self.organs)]
        return [*self.outlined, *(shape for each in types for shape in self._of_type(each))]

    def _of_type(self, lesion_type: str) -> Sequence[RealShape]:
        shapes = self.of_file
        return () if shapes is None else shapes.by_type.get(lesion_type, ())


def liver_shapes(library: ShapeLibrary) -> Sequence[RealShape]:
    """The shapes of a file for lesions of the liver."""
    return RealShapes(of_file=library, organs=("liver",)).fitting("soft", organ="liver")
