"""Writes a bundle with a small member of random weights per recipe: `python -m test.container.mixed_bundle FOLDER`."""

import sys
from pathlib import Path

import torch

from longilesion.bundle import Member, save_members
from longilesion.config import Thresholds
from longilesion.networks import build_network
from test.unit.small_recipes import shrunk

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.toml"))


def write_mixed_bundle(folder: Path) -> list[Member]:
    """Writes the bundle, in which each member has a weight of its own."""
    torch.manual_seed(0)
    members = []
    for weight, path in enumerate(RECIPES, start=1):
        settings = shrunk(path).model
        members.append(Member(settings=settings, networks=(build_network(settings),), weight=float(weight)))
    save_members(folder, members, Thresholds(threshold=0.5, presence_threshold=0.0), provenance={"data": "none"})
    return members


if __name__ == "__main__":
    print(f"{len(write_mixed_bundle(Path(sys.argv[1])))} members")
