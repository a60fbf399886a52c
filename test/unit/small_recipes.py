"""Recipes made so small that a training takes a moment, with all that makes their kind of network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.recipe import Recipe, read_recipe

# Stages that are kept of what is listed per stage, and their features.
_KEPT = {
    "features_per_stage": 3,
    "kernel_sizes": 3,
    "strides": 3,
    "blocks_per_stage": 3,
    "decoder_convolutions": 2,
    "joint_features_per_stage": 1,
    "joint_strides": 1,
}
_FEATURES = 4


def shrunk(path: Path, *, steps: int = 2) -> Recipe:
    """The recipe with fewer and narrower stages, a lattice of few coarse voxels, and few steps of few lesions."""
    settings = json.loads(read_recipe(path).model_dump_json())
    _shrink_network(settings["model"]["network"])
    settings["model"]["voi"] |= {"shape_zyx": [16, 32, 32], "spacing_zyx_mm": [4.0, 3.0, 3.0]}
    settings["jitter"]["shape_zyx"] = settings["presence"]["jitter"]["shape_zyx"] = None
    for step in settings["model"]["alignment"]["steps"]:
        step |= {"template_radius_mm": 10.0, "search_radius_mm": 5.0}
    settings |= {"steps": steps, "batch_size": 2, "precision": "32-true", "average_decay": 0.5}
    settings["data"] |= {"reuse": 1, "drawn_together": 4}
    settings["validation"] |= {"cases": 1}
    return Recipe.model_validate(settings)


def _shrink_network(network: dict[str, Any]) -> None:
    for table in (network, network.get("unet", {})):
        for name in table.keys() & _KEPT:
            kept = table[name][: _KEPT[name]]
            table[name] = [_FEATURES] * len(kept) if "features" in name else kept
