"""The learner of a model of lesion types: its objective with the memory bank, and one training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from longilesion.diagnosis_settings import RARE, DiagnosisSettings
from longilesion.networks.lesion_queries import LesionQueries, PhaseInput
from training.diagnosis.contrastive import MemoryBank
from training.diagnosis.loss import LesionTargets, diagnosis_loss, matched_lesions
from training.diagnosis.recipe import DiagnosisRecipe
from training.diagnosis.settings import DiagnosisLossSettings
from training.diagnosis.windows import WindowBatch
from training.learner import Learner, Pass, over_processes, set_up
from training.optimisation import averaged

# A liver's voxels are mostly in no lesion.
_COMMON_LOGIT = 5.0
# The parts of the loss.
LOSSES = ("mask", "classification", "contrastive", "semantic")


def initialised(network: LesionQueries) -> LesionQueries:
    """Initialises the semantic output so that lesion voxels are rare, as they are in a liver."""
    bias = cast("Tensor", network.semantic_head.bias)
    nn.init.zeros_(bias)
    with torch.no_grad():
        bias[0] = _COMMON_LOGIT
    return network


class DiagnosisObjective(nn.Module):
    """A network and its loss, from tensors to the parts of the loss, as data-parallel wrappers require."""

    def __init__(self, network: LesionQueries, settings: DiagnosisLossSettings, model: DiagnosisSettings) -> None:
        """Stores both; the memory bank is empty, and there is none where nothing is contrasted."""
        super().__init__()
        self.network, self.settings = network, settings
        self.rare = 1 + model.types.index(RARE) if RARE in model.types else None
        contrasts = model.network.queries > 0 and settings.contrastive > 0
        self.bank = MemoryBank(settings.memory_bank, model.network.embedding_features) if contrasts else None

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        semantic: Tensor,
        masks: Sequence[Tensor],
        classes: Sequence[Tensor],
        *,
        seed: int,
        lesions: float,
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The weighted parts of the loss, and the embeddings and classes of the lesions that queries were matched with.

        `inputs` are the tensors of a PhaseInput; `lesions` is the number of matched lesions per process.
        """
        loss = diagnosis_loss(
            self.network(PhaseInput(**inputs)),
            LesionTargets(semantic=semantic, masks=tuple(masks), classes=tuple(classes)),
            self.settings,
            rare=self.rare,
            bank=self.bank,
            generator=torch.Generator(semantic.device).manual_seed(seed),
            lesions=lesions,
        )
        return loss.parts, loss.embeddings, loss.classes


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisLearner(Learner[WindowBatch]):
    """The training state of a model of lesion types."""

    bank: MemoryBank | None
    queries: int

    @property
    def averaged_network(self) -> LesionQueries:
        """The network with averaged weights."""
        return cast("LesionQueries", self.average.module)

    @classmethod
    def of(cls, network: LesionQueries, recipe: DiagnosisRecipe, fabric: Fabric) -> DiagnosisLearner:
        """Moves a network to this process' device and sets up objective, optimiser and average."""
        objective = DiagnosisObjective(network, recipe.loss, recipe.model)
        wrapped, optimizer = set_up(fabric, network, objective, recipe.optimizer)
        return cls(
            fabric=fabric,
            network=network,
            objective=wrapped,
            optimizer=optimizer,
            average=averaged(network, recipe.average_decay),
            gradient_clip=recipe.optimizer.gradient_clip,
            sharpness=recipe.optimizer.sharpness,
            bank=objective.bank,
            queries=recipe.model.network.queries,
        )

    def state(self) -> dict[str, Any]:
        """All tensors needed to resume a run."""
        return Learner.state(self) | ({} if self.bank is None else {"bank": self.bank.state_dict()})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a result of `state`."""
        Learner.restore(self, state)
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])

    def _losses(self, batch: WindowBatch) -> Pass:
        targets = batch.targets
        (lesions,) = over_processes(self.fabric, [matched_lesions(targets, self.queries)], how="mean")
        parts, embeddings, classes = self.objective(
            {"phases": batch.input.phases, "is_there": batch.input.is_there},
            targets.semantic,
            targets.masks,
            targets.classes,
            seed=batch.seed,
            lesions=lesions,
        )

        def remember() -> None:
            if self.bank is not None:
                self.bank.add(embeddings, classes)

        return Pass(parts=parts, then=remember)
