"""Fits a bundle's presence head further, and its threshold: `training.presence RECIPE --bundle IN --output OUT`.

While the network trains, its features change and each batch has only a few lesions. Once the network is frozen, the
head's input is a short vector per lesion, and hundreds of them fit into one batch.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import floor
from pathlib import Path

import torch
import tyro
from jaxtyping import Bool, Float
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from longilesion.bundle import read_manifest, save_bundle
from longilesion.config import Device, ModelSettings
from longilesion.ensemble import Ensemble, load_ensemble, mirrored, mirrored_views
from longilesion.errors import InputError
from training.command import run_command
from training.differences import differences
from training.loading import Lesions, Share, batches
from training.recipe import LEAST_LESIONS, PresenceSettings, Recipe, read_recipe
from training.training_data import find_training_data

_log = logging.getLogger("training")

_EPOCHS = 300
_BATCH = 256


@dataclass
class Arguments:
    """Command line of a presence fit."""

    recipe: tyro.conf.Positional[Path]
    bundle: Path
    """Bundle of a trained network."""
    output: Path
    """Bundle to write, with the new head and threshold."""
    data: Path | None = None
    """What the network was trained on: a prepared data set, or a folder of CT volumes; phantoms if not given."""
    shapes: Path | None = None
    """The file of lesion shapes of the training, where the recipe does not name it."""
    fold: int | None = None
    """The fold that the network was not trained on; that of the 80/20 split if not given."""
    seed: int = 1
    lesions: int | None = None
    """How many are drawn; as many as the recipe says if not given."""
    workers: int = 1
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """The presence head's inputs for lesions in each mirrored view, and whether the lesions are present.

    `outlined` are those with an outline in the baseline, whose fate is in question: the others are new.
    """

    features: Float[Tensor, "n views d"]
    present: Bool[Tensor, " n"]
    outlined: Bool[Tensor, " n"]

    @property
    def persisting(self) -> Bool[Tensor, " n"]:
        """The lesions that are present in both scans, on the CPU."""
        return (self.present & self.outlined).cpu()

    def part(self, chosen: slice | Tensor) -> Judged:
        """Some of the lesions."""
        return Judged(features=self.features[chosen], present=self.present[chosen], outlined=self.outlined[chosen])

    def logits(self, head: nn.Module) -> Float[Tensor, "n views"]:
        """A head's logits for every view of every lesion."""
        logits: Tensor = head(self.features.flatten(0, 1))
        return logits.view(self.features.shape[:2])

    def cross_entropy(self, head: nn.Module) -> Float[Tensor, ""]:
        """The cross-entropy of a head's logits."""
        logits = self.logits(head)
        return binary_cross_entropy_with_logits(logits, self.present.float()[:, None].expand_as(logits))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Lesions for fitting the head, for choosing its epoch and its threshold, and for its figures.

    No two parts share a patient or pair.
    """

    fit: Bool[Tensor, " n"]
    epoch: Bool[Tensor, " n"]
    threshold: Bool[Tensor, " n"]
    figures: Bool[Tensor, " n"]


def fit_presence(arguments: Arguments) -> None:
    """Fits every fold's head on training volumes, and one threshold for all on lesions that no head was fitted to.

    Settings applied after the network (threshold, mirrored views) are taken from the current recipe.
    """
    recipe = _recipe(arguments)
    ensemble = load_ensemble(arguments.bundle, device=arguments.device)
    _check_settings(arguments.bundle, ensemble.settings, recipe)
    heads = [network.presence for network in ensemble.networks if network.presence is not None]
    if len(heads) < len(ensemble.networks):
        raise InputError(
            f"{arguments.bundle}: a {recipe.model.network.kind} without a presence head; expected one to fit"
        )
    training_data = find_training_data(
        arguments.data,
        recipe,
        fold=arguments.fold,
        seed=arguments.seed,
        workers=max(arguments.workers, 1),
        of_presence=True,
    )
    judged, origins = _judged(ensemble, training_data.lesions, recipe, workers=arguments.workers)
    parts = parts_of(origins)
    fitted = [
        fitted_head(head, lesions.part(parts.fit), lesions.part(parts.epoch))
        for head, lesions in zip(heads, judged, strict=True)
    ]
    chosen = _mean_presence(fitted, judged, parts.threshold)
    persisting = judged[0].part(parts.threshold).persisting
    if not bool(persisting.any()):
        raise InputError(
            f"none of the {len(persisting)} lesions to choose the threshold on persists; draw more lesions"
        )
    threshold = presence_threshold(chosen[persisting], recipe.presence)
    _say_figures(_mean_presence(fitted, judged, parts.figures), judged[0].part(parts.figures), threshold)
    for network, head in zip(ensemble.networks, fitted, strict=True):
        network.presence = head
    provenance = read_manifest(arguments.bundle).provenance
    inference = recipe.model.inference.model_copy(update={"presence_threshold": threshold})
    settings = ensemble.settings.model_copy(update={"inference": inference})
    save_bundle(arguments.output, settings, ensemble.networks, provenance=provenance)


def _recipe(arguments: Arguments) -> Recipe:
    """The recipe, with the shapes and the number of lesions of the command line; raises InputError for too few."""
    recipe = read_recipe(arguments.recipe).with_shapes(arguments.shapes)
    if arguments.lesions is None:
        return recipe
    if arguments.lesions < LEAST_LESIONS:
        raise InputError(f"--lesions {arguments.lesions}; expected at least {LEAST_LESIONS}")
    return recipe.model_copy(update={"presence": recipe.presence.model_copy(update={"lesions": arguments.lesions})})


def _mean_presence(
    heads: Sequence[nn.Module], judged: Sequence[Judged], chosen: Bool[Tensor, " n"]
) -> Float[Tensor, " m"]:
    """The mean presence over networks and mirrored views, for some of the lesions."""
    with torch.no_grad():
        views = [lesions.part(chosen).logits(head).sigmoid() for head, lesions in zip(heads, judged, strict=True)]
    return torch.cat(views, dim=1).mean(1).cpu()


def _say_figures(presence: Float[Tensor, " n"], lesions: Judged, threshold: float) -> None:
    is_kept = presence >= threshold
    _log.info(
        "threshold %.3f keeps %s of what persists and recognises %s of the gone",
        threshold,
        _share(is_kept[lesions.persisting]),
        _share(~is_kept[~lesions.present.cpu()]),
    )


def _share(flags: Bool[Tensor, " n"]) -> str:
    return f"{int(flags.sum())} of {len(flags)}" + (f" ({float(flags.float().mean()):.3f})" if len(flags) else "")


def _check_settings(bundle: Path, settings: ModelSettings, recipe: Recipe) -> None:
    """Raises InputError where settings other than those applied after the network differ from the network's own."""
    ours, theirs = (each.model_dump(mode="json", exclude={"inference"}) for each in (recipe.model, settings))
    for name, expected, found in differences(ours, theirs):
        raise InputError(f"{bundle}: {name} is {found}; expected {expected}, as in recipe {recipe.name}")


def parts_of(origins: Sequence[str]) -> Parts:
    """Splits patients or pairs: half for fitting, a quarter for the threshold, an eighth each for epoch and figures.

    The threshold, a quantile over persisting lesions, needs most of those not used for fitting. Raises
    InputError where there are fewer than four patients or pairs.
    """
    names = list(dict.fromkeys(origins))
    if len(names) < len(fields(Parts)):
        raise InputError(
            f"{len(names)} patients or pairs to fit the presence to; expected at least {len(fields(Parts))}"
        )
    eighth, quarter = max(len(names) // 8, 1), max(len(names) // 4, 1)
    fit = len(names) - 2 * eighth - quarter
    bounds = (0, fit, fit + eighth, fit + eighth + quarter, len(names))
    chosen = [set(names[start:stop]) for start, stop in pairwise(bounds)]
    fit_to, epoch, threshold, figures = (torch.tensor([origin in part for origin in origins]) for part in chosen)
    return Parts(fit=fit_to, epoch=epoch, threshold=threshold, figures=figures)


def fitted_head(head: nn.Module, seen: Judged, unseen: Judged) -> nn.Module:
    """The head after the epoch with the lowest loss on unseen lesions, or unchanged if no epoch improves it."""
    head = copy.deepcopy(head)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=3e-2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        best, best_loss = copy.deepcopy(head), float(unseen.cross_entropy(head))
    _log.info("presence: cross-entropy %.3f on unseen lesions before the fit", best_loss)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(seen.present), generator=generator).split(_BATCH):
            batch = seen.part(chosen.to(seen.present.device))
            optimizer.zero_grad(set_to_none=True)
            batch.cross_entropy(head).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(unseen.cross_entropy(head))
        if loss < best_loss:
            best, best_loss = copy.deepcopy(head), loss
    _log.info("presence: cross-entropy %.3f on unseen lesions after it", best_loss)
    return best


def presence_threshold(presence_of_persisting: Float[Tensor, " n"], settings: PresenceSettings) -> float:
    """The highest threshold that keeps the required share of persisting lesions."""
    # Rounded down, since rounding up could exclude the lesion at the threshold.
    quantile = torch.quantile(presence_of_persisting.float(), 1 - settings.kept, interpolation="lower")
    return floor(1000 * float(quantile)) / 1000


def _judged(ensemble: Ensemble, lesions: Lesions, recipe: Recipe, *, workers: int) -> tuple[list[Judged], list[str]]:
    """Inputs of the presence head for training lesions, placed almost as in inference.

    Also returns the patient or pair of each lesion.
    """
    count = -(-recipe.presence.lesions // recipe.batch_size)
    stream = batches(lesions, recipe.for_presence(), Share(workers=workers), steps=range(count))
    features: list[list[Tensor]] = [[] for _ in ensemble.networks]
    present: list[Tensor] = []
    outlined: list[bool] = []
    origins: list[str] = []
    views = mirrored_views(recipe.model)
    precision = ensemble.precision
    mixed = torch.autocast(ensemble.device.type, dtype=precision, enabled=precision != torch.float32)
    for batch in track(stream, "lesions", total=count, console=Console(stderr=True)):
        present.append(batch.present)
        origins += batch.origins
        outlined += batch.outlined
        on_device = batch.input.to(ensemble.device)
        # Only around the network: without workers, the next batch is drawn in this process.
        with torch.inference_mode(), mixed:
            for network, described in zip(ensemble.networks, features, strict=True):
                seen = [network(mirrored(on_device, view)).presence_features.float() for view in views]
                described.append(torch.stack(seen, dim=1))
    there = torch.cat(present).to(ensemble.device)
    before = torch.tensor(outlined, device=ensemble.device)
    return [
        Judged(features=torch.cat(described).clone(), present=there, outlined=before) for described in features
    ], origins


def main() -> int:
    """Command line; 1 where the bundle, the recipe or the data cannot be used."""
    return run_command(fit_presence, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
