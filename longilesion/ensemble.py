"""The batched mean probability of a bundle's networks, on a CPU or a GPU."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longilesion.bundle import Member, is_bundle, load_bundle
from longilesion.config import Device, MeasurementErrors, ModelSettings, Precision, Thresholds
from longilesion.errors import BundleError
from longilesion.networks.interface import LesionNetwork, NetworkInput
from longilesion.shipped import DETECTOR_FOLDER, SHIPPED_MODEL

# The dimensions of a batch of maps.
AXES = {"z": 2, "y": 3, "x": 4}
_BATCH_SIZE = {"cpu": 2, "cuda": 8}
# On a CPU, lattices from this size are predicted one by one: as fast as two at once, with little over half the memory.
_LARGE_LATTICE_VOXELS = 2**19

_log = logging.getLogger(__name__)


class Predicted(NamedTuple):
    """Means over networks and mirrored views, float32 on the CPU, and the deviation of the outline among them.

    The presence is None where the networks do not predict it.
    """

    outline: Float[Tensor, "batch z y x"]
    presence: Float[Tensor, " batch"] | None
    deviation: Float[Tensor, "batch z y x"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ensemble:
    """The members of one bundle, on their device, ready to predict; `name` is the bundle's name for messages.

    `thresholds` apply to the weighted mean of the members. `errors` are those of measures of its outlines, None where
    nobody has determined them.
    """

    members: tuple[Member, ...]
    thresholds: Thresholds
    device: torch.device
    precision: torch.dtype
    name: str = "the networks"
    errors: MeasurementErrors | None = None

    @classmethod
    def of(
        cls,
        settings: ModelSettings,
        networks: Sequence[LesionNetwork],
        *,
        device: torch.device,
        precision: torch.dtype,
        name: str = "the networks",
    ) -> Ensemble:
        """An ensemble of one member, with the thresholds of its settings."""
        member = Member(settings=settings, networks=tuple(networks))
        thresholds = settings.inference.thresholds
        return cls(members=(member,), thresholds=thresholds, device=device, precision=precision, name=name)

    @property
    def networks(self) -> tuple[LesionNetwork, ...]:
        """The networks of all members."""
        return tuple(network for member in self.members for network in member.networks)

    @property
    def settings(self) -> ModelSettings:
        """The settings of the only member; raises BundleError where there are several."""
        return self.only_member.settings

    @property
    def only_member(self) -> Member:
        """The member of an ensemble that has one; raises BundleError where there are several."""
        if len(self.members) > 1:
            raise BundleError(f"{self.name}: {len(self.members)} members of different settings; expected one")
        return self.members[0]

    @property
    def main_settings(self) -> ModelSettings:
        """The settings of the members whose lattice and positions are reported: the first of the heaviest group."""
        return self.groups[0][0].settings

    @property
    def groups(self) -> tuple[tuple[Member, ...], ...]:
        """The members that share the lattices of each lesion, having the same VOI, alignment and zooms; heaviest first.

        Groups of equal weight are in the order of the bundle.
        """
        groups: dict[object, list[Member]] = {}
        for member in self.members:
            settings = member.settings
            lattices = settings.voi, settings.alignment, settings.inference.zoom_factors
            groups.setdefault(lattices, []).append(member)
        return tuple(sorted(map(tuple, groups.values()), key=lambda group: -sum(member.weight for member in group)))

    def with_settings(self, change: Callable[[ModelSettings], ModelSettings]) -> Ensemble:
        """The same networks with every member's settings changed."""
        members = (replace(member, settings=change(member.settings)) for member in self.members)
        return replace(self, members=tuple(members))

    def batch_size(self, settings: ModelSettings) -> int:
        """Number of lesions to predict at once on a lattice of these settings."""
        if self.device.type == "cpu" and math.prod(settings.voi.shape_zyx) >= _LARGE_LATTICE_VOXELS:
            return 1
        return _BATCH_SIZE[self.device.type]

    def predict(self, batch: NetworkInput, member: Member | None = None) -> Predicted:
        """Outlines a batch with a member's networks in all mirrored views; the member is the only one if not given.

        Where a GPU runs out of memory, the batch is halved until it fits; where outputs in less than float32 are not
        finite, it is repeated in float32. Raises BundleError where they are not finite in float32 either.
        """
        member = member or self.only_member
        try:
            return self._predict(batch, member)
        except torch.OutOfMemoryError:
            size = len(batch)
            if size == 1:
                raise
        # Not in the handler: the error's traceback keeps the tensors of the attempt in memory.
        half = (size + 1) // 2
        torch.cuda.empty_cache()
        _log.warning("the GPU ran out of memory with a batch of %d lesions; trying %d", size, half)
        parts = [self.predict(part, member) for part in batch.split(half)]
        presence = [part.presence for part in parts if part.presence is not None]
        return Predicted(
            outline=torch.cat([part.outline for part in parts]),
            presence=torch.cat(presence) if presence else None,
            deviation=torch.cat([part.deviation for part in parts]),
        )

    def _predict(self, batch: NetworkInput, member: Member) -> Predicted:
        mean, is_finite = self._mean(batch, member, self.precision)
        if not bool(is_finite.all()) and self.precision != torch.float32:
            _say_repeated(self.name, str(self.precision).removeprefix("torch."))
            mean, is_finite = self._mean(batch, member, torch.float32)
        bad = int((~is_finite).sum())
        if bad:
            raise BundleError(
                f"{self.name}: NaN or infinity for {bad} of {len(batch)} lesions, also in float32; expected numbers"
            )
        return Predicted(
            outline=mean.outline.cpu(),
            presence=None if mean.presence is None else mean.presence.cpu(),
            deviation=mean.deviation.cpu(),
        )

    def _mean(
        self, batch: NetworkInput, member: Member, precision: torch.dtype
    ) -> tuple[Predicted, Bool[Tensor, " batch"]]:
        """The prediction on the networks' device, and the lesions whose logits were all finite."""
        views = mirrored_views(member.settings)
        shown = batch if member.settings.inference.uses_baseline else batch.without_baseline()
        on_device = shown.to(self.device)
        size = len(batch)
        outline = torch.zeros((size, *batch.followup.shape[2:]), device=self.device)
        squares = torch.zeros_like(outline)
        presence = torch.zeros(size, device=self.device)
        is_finite = torch.ones(size, dtype=torch.bool, device=self.device)
        is_judged = True
        mixed = torch.autocast(self.device.type, dtype=precision, enabled=precision != torch.float32)
        with torch.inference_mode(), mixed:
            for view in views:
                seen = mirrored(on_device, view)
                for network in member.networks:
                    output = network(seen)
                    logits = output.lesion_logits[0].float()
                    probability = logits.sigmoid().flip(view)[:, 0]
                    outline += probability
                    squares += probability.square()
                    is_finite &= logits.isfinite().flatten(1).all(1)
                    if output.presence_logit is None:
                        is_judged = False
                        continue
                    logit = output.presence_logit.float()
                    presence += logit.sigmoid()
                    is_finite &= logit.isfinite()
        count = len(views) * len(member.networks)
        outline /= count
        deviation = (squares / count - outline.square()).clamp(min=0).sqrt()
        return Predicted(outline, presence / count if is_judged else None, deviation), is_finite


@cache
def _say_repeated(name: str, precision: str) -> None:
    """Warns, once for any number of batches, that lesions are predicted again in float32."""
    _log.warning("%s: gives NaN or infinity in %s; such lesions are predicted again in float32", name, precision)


def load_ensemble(
    directory: str | Path = SHIPPED_MODEL, *, device: Device = "auto", precision: Precision = "auto"
) -> Ensemble:
    """Loads a bundle, by default the shipped one, and moves its networks to a device.

    Raises BundleError for a bundle that is missing, damaged, or of another version, or a device that is not available.
    """
    directory = Path(directory)
    manifest, members = load_bundle(directory)
    chosen = find_device(device)
    ensemble = Ensemble(
        members=members,
        thresholds=manifest.thresholds,
        device=chosen,
        precision=find_precision(precision, chosen),
        name=str(directory),
        errors=manifest.errors,
    )
    for network in ensemble.networks:
        network.to(chosen)
        if chosen.type == "cpu":
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return ensemble


def load_detector(
    ensemble: Ensemble,
    directory: Path | None = None,
    *,
    model: Path = SHIPPED_MODEL,
    device: Device = "auto",
    precision: Precision = "auto",
) -> Ensemble:
    """Loads the network that searches for lesions that nobody clicked; where none is named, the model's own detector.

    Without one, that is the shipped detector, and without that the ensemble itself. Raises BundleError as
    `load_ensemble`.
    """
    usual = (folder / DETECTOR_FOLDER for folder in (model, SHIPPED_MODEL))
    chosen = directory or next((folder for folder in usual if is_bundle(folder)), None)
    return ensemble if chosen is None else load_ensemble(chosen, device=device, precision=precision)


def find_device(device: Device) -> torch.device:
    """The device of that name; raises BundleError for one that is not available."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BundleError("--device cuda: no CUDA device is available; expected one, or --device cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def find_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The precision of that name; for "auto", the fastest that the device supports.

    On a GPU that is bfloat16, which has float32's range but 8 bits of precision instead of 24, or on older ones
    float16, with 11 bits and a maximum of 65504; on a CPU bfloat16 where it has instructions for it, else float32.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _has_cpu_bfloat16() else torch.float32


def _has_cpu_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them it is slower than float32."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8") if os.name == "posix" and flags.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def mirrored_views(settings: ModelSettings) -> list[list[int]]:
    """The axes that each view of a batch is mirrored along; the first view is the batch itself."""
    views: list[list[int]] = [[]]
    for axis in settings.inference.mirror_axes:
        views.extend([*view, AXES[axis]] for view in list(views))
    return views


def mirrored(batch: NetworkInput, view: list[int]) -> NetworkInput:
    """A batch mirrored along those axes, with channels last on a CPU, whose bfloat16 convolutions need that."""
    turned = batch.mirrored(view)
    if batch.followup.device.type != "cpu":
        return turned
    return turned.changed(lambda maps: maps.contiguous(memory_format=torch.channels_last_3d))
