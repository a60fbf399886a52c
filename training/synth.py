"""Shows synthetic pairs as pictures and statistics: `python -m training.synth`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from longilesion.errors import InputError
from longilesion.evaluation.exam import FATES
from longilesion.files import check_text, written_together
from training.command import run_command
from training.recipe import read_recipe
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.preview import Example, write_examples
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import ShapeLibrary, read_shape_library
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources
from training.synthesis.statistics import Row, as_json, as_markdown, lesion_numbers, statistics_table

# Pairs without lesions are skipped for the pictures, up to this limit.
_TRIES_PER_EXAMPLE = 20


@dataclass
class Arguments:
    """Command line of a preview."""

    data: Path | None = None
    """Folder with one subfolder per CT volume (`ct.nii.gz`); phantoms where it is not given."""
    examples: int = 8
    """Rows of the picture."""
    seed: int = 0
    recipe: Path = Path("training/recipes/compact.toml")
    """Its [synthesis] says what is drawn, its [model] where a gone lesion is looked for."""
    shapes: Path | None = None
    """A file of lesion shapes (`training.shapes`) for painted lesions, in place of the recipe's."""
    generator: Literal["general", "lifenet"] | None = None
    """Used in place of the recipe's."""
    output: Path | None = None
    """The picture (PNG)."""
    pairs: int = 100
    """Pairs that the statistics sum up."""
    statistics: Path | None = None
    """Also write the statistics to this file: a table in Markdown (.md), or with every lesion (.json)."""


def preview(arguments: Arguments) -> None:
    """Draws pairs, prints their statistics, and writes the requested files."""
    _check(arguments)
    recipe = read_recipe(arguments.recipe).with_shapes(arguments.shapes)
    library = None if recipe.data.shapes is None else read_shape_library(recipe.data.shapes)
    settings = recipe.synthesis
    if arguments.generator is not None:
        settings = settings.model_copy(update={"generator": arguments.generator})
    sources = _sources(arguments.data)
    console = Console(width=160)
    if arguments.output is not None:
        examples = find_examples(sources, settings, library=library, count=arguments.examples, seed=arguments.seed)
        write_examples(arguments.output, examples, recipe.model)
        console.print(f"{len(examples)} examples: {arguments.output}", soft_wrap=True)
    drawn = _drawn(sources, settings, library=library, seed=arguments.seed)
    numbers = [
        lesion_numbers(next(drawn)[1])
        for _ in track(range(arguments.pairs), "drawing pairs", console=Console(stderr=True), transient=True)
    ]
    rows = statistics_table(numbers)
    console.print(_printed(rows))
    if arguments.statistics is not None:
        text = as_json(rows, numbers) if arguments.statistics.suffix == ".json" else as_markdown(rows)
        with written_together({arguments.statistics: check_text}) as (temporary,):
            temporary.write_text(text)


def find_examples(
    sources: Sequence[Source],
    settings: SynthesisSettings,
    *,
    library: ShapeLibrary | None = None,
    count: int,
    seed: int,
) -> list[Example]:
    """Draws pairs and chooses a lesion of each, so that all fates that occur are shown in turn.

    Raises InputError where almost no pair has a lesion.
    """
    examples: list[Example] = []
    shown = dict.fromkeys(FATES, 0)
    for tried, (source, pair) in enumerate(_drawn(sources, settings, library=library, seed=seed)):
        if len(examples) == count:
            break
        if tried > count * _TRIES_PER_EXAMPLE:
            raise InputError(
                f"{len(examples)} of {tried} pairs have lesions; expected {count}, see the recipe's shares"
            )
        if pair.facts:
            fewest = min(shown[fact.fate] for fact in pair.facts.values())
            rarest = [each for each, fact in pair.facts.items() if shown[fact.fate] == fewest]
            example = Example(source=source.name, pair=pair, lesion_id=min(rarest, key=partial(_off_middle_mm, pair)))
            examples.append(example)
            shown[pair.facts[example.lesion_id].fate] += 1
    return examples


def _off_middle_mm(pair: SyntheticPair, lesion_id: int) -> float:
    """Distance of a lesion from the baseline's centre; far off, it may be cut."""
    middle = pair.case.baselines["primary"].scan.grid.centre_xyz_mm
    places = [
        click.baseline.point_xyz_mm for click in pair.case.clicks if click.lesion_id == lesion_id and click.baseline
    ]
    return min((float(np.linalg.norm(np.subtract(place, middle))) for place in places), default=np.inf)


def _drawn(
    sources: Sequence[Source], settings: SynthesisSettings, *, library: ShapeLibrary | None, seed: int
) -> Iterator[tuple[Source, SyntheticPair]]:
    """Draws pairs from the sources in turn."""
    number = 0
    while True:
        source = sources[number % len(sources)]
        generator = np.random.default_rng((seed, number))
        yield source, synthetic_pair(source, generator, shapes=sources, library=library, settings=settings)
        number += 1


def _sources(data: Path | None) -> tuple[Source, ...]:
    if data is None:
        return phantom_sources(range(5))
    return load_sources(data, find_volumes(data))


def _check(arguments: Arguments) -> None:
    if arguments.output is not None and arguments.output.suffix != ".png":
        raise InputError(f"{arguments.output}: not a picture; expected a name that ends with .png")
    if arguments.statistics is not None and arguments.statistics.suffix not in (".md", ".json"):
        raise InputError(f"{arguments.statistics}: not a table; expected a name that ends with .md or .json")
    for name in ("examples", "pairs"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} {getattr(arguments, name)}: expected a number from 1 on")


def _printed(rows: Sequence[Row]) -> Table:
    table = Table()
    for heading in ("quantity", "drawn", "published", "published for"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.quantity, row.drawn, row.published, row.source)
    return table


def main() -> int:
    """Command line; 1 where the recipe or the data cannot be used."""
    return run_command(preview, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
