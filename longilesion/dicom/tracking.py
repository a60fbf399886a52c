"""Tracking identifiers: the same for a lesion at all of a patient's time points."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

import highdicom as hd

from longilesion.case import Identity
from longilesion.dicom.segmentation import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """A lesion's identifier for people, and its unique one."""

    identifier: str
    uid: str


def tracking_of(
    lesion_ids: Iterable[int],
    first: Identity,
    segments: Mapping[int, Segment] | None = None,
    *,
    candidates: Collection[int] = (),
) -> dict[int, Tracking]:
    """The lesions' tracking: that of the input segmentation where it has one, or else one derived from the first scan.

    So every follow-up of one baseline gives a lesion the same identifiers, in every run. Where segments without a
    tracking have labels, these are the identifiers for people; those of candidates say what they are.
    """
    found = {}
    for lesion_id in lesion_ids:
        segment = (segments or {}).get(lesion_id)
        name = f"candidate {lesion_id}, not confirmed" if lesion_id in candidates else f"lesion {lesion_id}"
        uid = str(hd.UID.from_uuid(str(uuid5(NAMESPACE_OID, f"{first.series_uid}/{lesion_id}"))))
        if segment is not None:
            name = segment.tracking_id or segment.label or name
            uid = segment.tracking_uid or uid
        found[lesion_id] = Tracking(identifier=name, uid=uid)
    return found
