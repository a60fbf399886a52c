"""LIDIA: phases fused one by one, then a mask transformer whose queries each outline a lesion and tell its type."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Float32
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseInput:
    """A batch of encoded windows, phase by phase in order of time; the maps of absent phases are zero."""

    phases: Float32[Tensor, "batch phases channels z y x"]
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
