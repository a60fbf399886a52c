"""Fusion of the contrast phases of one exam into the features that an encoder sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from jaxtyping import Bool, Float
from torch import Tensor, nn

from longilesion.networks.fusion import IterativeFusion, TimePointFeatures
from longilesion.networks.unet import convolution_block

# Of a phase's block (section 2.2).
_CONVOLUTIONS = 2


class IterativePhaseFusion(nn.Module):
    """LIDIA's iterative fusion module (eq. 1 and 2): each phase has a block of its own, the fusion's is one for all."""

    def __init__(self, channels: int, features: int, *, phases: int) -> None:
        """Builds the blocks for images of that many channels."""
        super().__init__()
        self.blocks = nn.ModuleList(
            convolution_block(channels, features, convolutions=_CONVOLUTIONS) for _ in range(phases)
        )
        self.fusion = IterativeFusion([features])

    def forward(
        self, phases: Float[Tensor, "batch phases channels z y x"], is_there: Bool[Tensor, "batch phases"]
    ) -> Float[Tensor, "batch features z y x"]:
        """The fused features of the phases that a sample has."""
        (fused,) = self.fusion.fused(self._features(phases, is_there))
        return fused

    def _features(self, phases: Tensor, is_there: Tensor) -> Iterator[TimePointFeatures]:
        """Those of the phases that any sample has, each computed only when the fusion comes to it."""
        shown = is_there.any(dim=0).tolist()
        for block, images, known, is_shown in zip(
            self.blocks, phases.unbind(1), is_there.unbind(1), shown, strict=True
        ):
            if is_shown:
                yield TimePointFeatures(levels=[block(images)], is_there=known)


class PhaseConcatenation(nn.Module):
    """The baseline of LIDIA's table 2: the images of a fixed set of phases, concatenated; an absent one is zero.

    Its block has as many weights as the iterative fusion's together, so that a difference between both is one of order
    and not of size.
    """

    def __init__(self, channels: int, features: int, *, phases: int) -> None:
        """Builds the block for images of that many channels."""
        super().__init__()
        # After the first, each convolution from features to features is another phase's, and the step has two.
        convolutions = 1 + phases * (_CONVOLUTIONS - 1) + 2
        self.block = convolution_block(phases * channels, features, convolutions=convolutions)

    def forward(
        self, phases: Float[Tensor, "batch phases channels z y x"], is_there: Bool[Tensor, "batch phases"]
    ) -> Float[Tensor, "batch features z y x"]:
        """The features of all phases together."""
        known = phases.where(is_there[:, :, None, None, None, None], 0)
        features: Tensor = self.block(known.flatten(1, 2))
        return features


# By the name in the settings.
PHASE_FUSIONS: Mapping[str, Callable[..., nn.Module]] = {
    "iterative": IterativePhaseFusion,
    "concatenation": PhaseConcatenation,
}
