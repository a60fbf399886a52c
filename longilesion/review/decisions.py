"""What a person decides in a review, as lines of its journal."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from longilesion.case import HIGHEST_ID, ScanName

_Id = Annotated[int, Field(ge=1, le=HIGHEST_ID)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Point = Annotated[tuple[_Finite, _Finite, _Finite], Field(description="x, y, z in mm, LPS, of the follow-up scan")]
_Run = tuple[Annotated[int, Field(ge=0, lt=2**40)], Annotated[int, Field(ge=1, lt=2**24)]]
_Runs = Annotated[tuple[_Run, ...], Field(max_length=100_000, description="first voxel and count, by `RasVolume`")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Confirm(_Record):
    """What is proposed of a lesion is right."""

    kind: Literal["confirm"] = "confirm"
    lesion: _Id


class Move(_Record):
    """A lesion is at another place; what was drawn of it before is dropped."""

    kind: Literal["move"] = "move"
    lesion: _Id
    scan: ScanName
    point_xyz_mm: _Point


class Gone(_Record):
    """A lesion is no longer there."""

    kind: Literal["gone"] = "gone"
    lesion: _Id


class New(_Record):
    """There is a lesion that nobody knew of; its id is the one after the highest."""

    kind: Literal["new"] = "new"
    scan: ScanName
    point_xyz_mm: _Point


class NotALesion(_Record):
    """What was taken for a lesion is none, nor was it in the baseline."""

    kind: Literal["not_a_lesion"] = "not_a_lesion"
    lesion: _Id


class Merge(_Record):
    """A lesion has merged with another one, whose outline then includes its own."""

    kind: Literal["merge"] = "merge"
    lesion: _Id
    into: _Id


class Draw(_Record):
    """Voxels of the follow-up scan that were added to a lesion's outline or removed from it by hand."""

    kind: Literal["draw"] = "draw"
    lesion: _Id
    added: _Runs = ()
    removed: _Runs = ()


class Undo(_Record):
    """The last decision that stands no longer does."""

    kind: Literal["undo"] = "undo"


class Redo(_Record):
    """The decision that was undone last stands again."""

    kind: Literal["redo"] = "redo"


Decision: TypeAlias = Confirm | Move | Gone | New | NotALesion | Merge | Draw
Action: TypeAlias = Annotated[Decision | Undo | Redo, Field(discriminator="kind")]


class Entry(_Record):
    """A line of the journal: the number counts from 1; `reader` is who decided, empty where nobody has said."""

    number: int
    at: datetime
    reader: str
    action: Action


class Start(_Record):
    """The first line: what is reviewed, by its fingerprint, and the version of the program that began."""

    journal: Literal[1] = 1
    version: str
    at: datetime
    fingerprint: str
