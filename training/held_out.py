"""Pairs of volumes that did not train a network: options of the commands that judge it or choose its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from longilesion.errors import InputError
from training.recipe import read_recipe
from training.synthesis.pairs import SyntheticPair
from training.training_data import held_out_pairs


@dataclass(kw_only=True)
class HeldOutOptions:
    """Which pairs are drawn."""

    recipe: Path = Path("training/recipes/compact.toml")
    """Its held-out volumes and its kind of synthetic pairs are used."""
    data: Path | None = None
    """Folder with one subfolder per CT volume; phantoms where it is not given."""
    fold: int | None = None
    """The fold of the recipe whose volumes are used; the recipe's validation volumes if not given."""
    cases: int = 40
    seed: int = 2024

    def pairs(self, label: str) -> Iterator[tuple[str, SyntheticPair]]:
        """Each pair with its name, and a progress bar with a label; raises InputError for an option without sense."""
        if self.cases < 1:
            raise InputError(f"--cases {self.cases}; expected at least 1")
        pairs = held_out_pairs(self.data, read_recipe(self.recipe), fold=self.fold, cases=self.cases, seed=self.seed)
        return iter(track(pairs, label, total=self.cases, console=Console(stderr=True)))
