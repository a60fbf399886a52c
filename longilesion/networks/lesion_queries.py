"""LIDIA: phases fused one by one, then a mask transformer whose queries each outline a lesion and tell its type."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.networks.feature_pyramid import FeaturePyramid, upsampled
from longilesion.networks.mask_decoder import MaskDecoder
from longilesion.networks.phase_fusion import PHASE_FUSIONS
from longilesion.networks.unet import Encoder, depth_to_space, space_to_depth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseInput:
    """A batch of encoded windows, phase by phase in order of time; the maps of absent phases are zero."""

    phases: Float[Tensor, "batch phases channels z y x"]
    is_there: Bool[Tensor, "batch phases"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryPrediction:
    """A decoder layer's answer: per query the logits of its class (0: no lesion), and of its mask.

    Masks have the size of the pyramid's level `mask_level`.
    """

    class_logits: Float[Tensor, "batch queries classes"]
    mask_logits: Float[Tensor, "batch queries z y x"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryOutput:
    """A network's outputs; `layers` are the decoder's answers, the first before any layer, the last one the result.

    Outside training only the last is there, and none for a network without queries. `semantic_logits` have the size of
    the input. `embeddings` are the last layer's queries, projected to unit length for the contrastive loss; only in
    training.
    """

    semantic_logits: Float[Tensor, "batch classes z y x"]
    layers: tuple[QueryPrediction, ...] = ()
    embeddings: Float[Tensor, "batch queries e"] | None = None


class LesionQueries(nn.Module):
    """LIDIA (section 2.2): fused phases, an nnU-Net encoder, a feature pyramid, and a mask decoder of lesion queries.

    The encoder's stem comes before the fusion, which at the size of the input would cost more than all else. The
    semantic output is always there; without queries it is all that there is.
    """

    def __init__(self, settings: DiagnosisSettings) -> None:
        """Builds the network that the settings describe."""
        super().__init__()
        network, classes = settings.network, 1 + len(settings.types)
        stages, self.mask_level = network.encoder.features_per_stage, network.mask_level
        self.stem_zyx = network.encoder.stem_zyx
        folded = prod(self.stem_zyx)
        self.fusion = PHASE_FUSIONS[network.fusion](
            folded * len(settings.clip_hu), network.phase_features, phases=len(settings.phases)
        )
        self.encoder = Encoder(network.phase_features, network.encoder.model_copy(update={"stem_zyx": (1, 1, 1)}))
        self.pyramid = FeaturePyramid(stages, network.pyramid_features, mask_level=network.mask_level)
        self.semantic_head = nn.Conv3d(self.pyramid.widths[0], folded * classes, kernel_size=1)
        self.attended = network.attended_levels
        self.decoder: MaskDecoder | None = None
        if network.queries:
            features, embedding = network.pyramid_features, network.embedding_features
            self.decoder = MaskDecoder(network, classes=classes, scales=len(self.attended))
            self.projection = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, embedding))

    def forward(self, inputs: PhaseInput) -> QueryOutput:
        """Outlines the lesions of a batch; raises ValueError for a sample without any phase."""
        if not inputs.is_there.any(dim=1).all():
            raise ValueError("a sample has no phase; expected one or more")
        phases = space_to_depth(inputs.phases.flatten(0, 1), self.stem_zyx).unflatten(0, inputs.is_there.shape)
        levels = self.pyramid(self.encoder(self.fusion(phases, inputs.is_there)))
        semantic = depth_to_space(self.semantic_head(levels[0]), self.stem_zyx)
        semantic = upsampled(semantic, inputs.phases.shape[3:])
        if self.decoder is None:
            return QueryOutput(semantic_logits=semantic)
        pixels = self.decoder.pixels(levels[self.mask_level])
        states = self.decoder([levels[level] for level in self.attended], pixels)
        layers = tuple(
            QueryPrediction(
                class_logits=self.decoder.class_head(state), mask_logits=self.decoder.mask_logits(state, pixels)
            )
            for state in (states if self.training else states[-1:])
        )
        embeddings = None
        if self.training:
            # In bfloat16 their length would be off by up to a hundredth.
            embeddings = nn.functional.normalize(self.projection(states[-1]).float(), dim=2)
        return QueryOutput(semantic_logits=semantic, layers=layers, embeddings=embeddings)
