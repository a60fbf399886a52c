"""Shows synthetic pairs, series of them, or exams in contrast phases as pictures: `python -m training.synth`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from longilesion.errors import InputError
from longilesion.evaluation.exam import FATES
from longilesion.files import check_text, written_together
from training.command import run_command
from training.recipe import read_recipe
from training.synthesis.liver_host import LIVER, liver_host
from training.synthesis.pairs import SyntheticPair, SyntheticSeries, synthetic_series
from training.synthesis.phase_preview import find_phase_examples, write_phases
from training.synthesis.preview import Example, SeriesExample, write_examples, write_series
from training.synthesis.real_shapes import liver_shapes
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import ShapeLibrary, read_shape_library
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources, volumes_with
from training.synthesis.statistics import Row, as_json, as_markdown, lesion_numbers, statistics_table

_Drawn = TypeVar("_Drawn")

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
    times: int = 2
    """Time points; with more than two, the picture shows series, and the statistics sum up their consecutive pairs."""
    output: Path | None = None
    """The picture (PNG)."""
    pairs: int = 100
    """Pairs that the statistics sum up."""
    statistics: Path | None = None
    """Also write the statistics to this file: a table in Markdown (.md), or with every lesion (.json)."""
    whole: bool = False
    """Draw pairs of whole volumes and not of cut-outs."""
    phases: bool = False
    """Show exams of the liver in contrast phases instead, without statistics; the types of lesions take turns."""


def preview(arguments: Arguments) -> None:
    """Draws pairs, prints their statistics, and writes the requested files."""
    _check(arguments)
    if arguments.phases:
        _preview_phases(arguments)
        return
    recipe = read_recipe(arguments.recipe).with_shapes(arguments.shapes)
    library = None if recipe.data.shapes is None else read_shape_library(recipe.data.shapes)
    settings = recipe.synthesis
    if arguments.generator is not None:
        settings = settings.model_copy(update={"generator": arguments.generator})
    sources = _sources(arguments.data)
    draw = partial(
        drawn_series,
        sources,
        settings,
        library=library,
        times=arguments.times,
        seed=arguments.seed,
        whole=arguments.whole,
    )
    console = Console(width=160)
    if arguments.output is not None:
        if arguments.times == 2:
            examples = find_examples(consecutive_pairs(draw()), count=arguments.examples)
            write_examples(arguments.output, examples, recipe.model)
        else:
            write_series(arguments.output, find_series(draw(), count=arguments.examples), recipe.model)
        console.print(f"{arguments.examples} examples: {arguments.output}", soft_wrap=True)
    pairs = consecutive_pairs(draw())
    numbers = [
        lesion_numbers(next(pairs)[1])
        for _ in track(range(arguments.pairs), "drawing pairs", console=Console(stderr=True), transient=True)
    ]
    rows = statistics_table(numbers)
    console.print(_printed(rows))
    if arguments.statistics is not None:
        text = as_json(rows, numbers) if arguments.statistics.suffix == ".json" else as_markdown(rows)
        with written_together({arguments.statistics: check_text}) as (temporary,):
            temporary.write_text(text, encoding="utf-8")


def _preview_phases(arguments: Arguments) -> None:
    if arguments.output is None:
        raise InputError("--phases without --output; expected a picture (.png) to write")
    data = arguments.data
    sources = phantom_sources(range(2)) if data is None else load_sources(data, volumes_with(LIVER, data))
    shapes = () if arguments.shapes is None else liver_shapes(read_shape_library(arguments.shapes))
    hosts = [liver_host(source) for source in sources[: arguments.examples]]
    examples = find_phase_examples(hosts, count=arguments.examples, seed=arguments.seed, shapes=shapes)
    write_phases(arguments.output, examples)


def find_examples(drawn: Iterable[tuple[Source, SyntheticPair]], *, count: int) -> list[Example]:
    """Chooses a lesion of each pair, so that all fates that occur are shown in turn.

    Raises InputError where almost no pair has a lesion.
    """
    examples: list[Example] = []
    shown = dict.fromkeys(FATES, 0)
    for source, pair in _with_lesions(drawn, lambda pair: bool(pair.facts), count=count):
        fewest = min(shown[fact.fate] for fact in pair.facts.values())
        rarest = [each for each, fact in pair.facts.items() if shown[fact.fate] == fewest]
        example = Example(source=source.name, pair=pair, lesion_id=min(rarest, key=partial(_off_middle_mm, pair)))
        examples.append(example)
        shown[pair.facts[example.lesion_id].fate] += 1
    return examples


def find_series(drawn: Iterable[tuple[Source, SyntheticSeries]], *, count: int) -> list[SeriesExample]:
    """Chooses a lesion of each series, so that different histories (there, gone, back) are shown in turn.

    Raises InputError where almost no series has a lesion.
    """
    examples: list[SeriesExample] = []
    shown: Counter[tuple[bool, ...]] = Counter()
    for source, series in _with_lesions(drawn, lambda series: any(map(any, series.volumes_ml.values())), count=count):
        histories = {
            lesion_id: tuple(volume > 0 for volume in volumes)
            for lesion_id, volumes in series.volumes_ml.items()
            if any(volumes)
        }
        rarest = min(histories, key=lambda lesion_id: shown[histories[lesion_id]])
        examples.append(SeriesExample(source=source.name, series=series, lesion_id=rarest))
        shown[histories[rarest]] += 1
    return examples


def _with_lesions(
    drawn: Iterable[tuple[Source, _Drawn]], has_lesions: Callable[[_Drawn], bool], *, count: int
) -> Iterator[tuple[Source, _Drawn]]:
    """The first ones with lesions, in that number."""
    found = 0
    for tried, (source, each) in enumerate(drawn):
        if found == count:
            return
        if tried > count * _TRIES_PER_EXAMPLE:
            raise InputError(f"{found} of {tried} drawn have lesions; expected {count}, see the recipe's shares")
        if has_lesions(each):
            found += 1
            yield source, each


def _off_middle_mm(pair: SyntheticPair, lesion_id: int) -> float:
    """Distance of a lesion from the baseline's centre; far off, it may be cut."""
    middle = pair.case.baselines["primary"].scan.grid.centre_xyz_mm
    places = [
        click.baseline.point_xyz_mm for click in pair.exact_clicks if click.lesion_id == lesion_id and click.baseline
    ]
    return min((float(np.linalg.norm(np.subtract(place, middle))) for place in places), default=np.inf)


def drawn_series(
    sources: Sequence[Source],
    settings: SynthesisSettings,
    *,
    library: ShapeLibrary | None = None,
    times: int = 2,
    seed: int,
    whole: bool = False,
) -> Iterator[tuple[Source, SyntheticSeries]]:
    """Draws series from the sources in turn; those of two time points are a pair each."""
    number = 0
    while True:
        source = sources[number % len(sources)]
        generator = np.random.default_rng((seed, number))
        series = synthetic_series(
            source, generator, times=times, shapes=sources, library=library, settings=settings, whole=whole
        )
        yield source, series
        number += 1


def consecutive_pairs(drawn: Iterable[tuple[Source, SyntheticSeries]]) -> Iterator[tuple[Source, SyntheticPair]]:
    """The consecutive pairs of all series."""
    for source, series in drawn:
        yield from ((source, pair) for pair in series.pairs)


def _sources(data: Path | None) -> tuple[Source, ...]:
    if data is None:
        return phantom_sources(range(5))
    return load_sources(data, find_volumes(data))


def _check(arguments: Arguments) -> None:
    if arguments.output is not None and arguments.output.suffix != ".png":
        raise InputError(f"{arguments.output}: not a picture; expected a name that ends with .png")
    if arguments.statistics is not None and arguments.statistics.suffix not in (".md", ".json"):
        raise InputError(f"{arguments.statistics}: not a table; expected a name that ends with .md or .json")
    if arguments.times < 2:
        raise InputError(f"--times {arguments.times}: expected at least two time points")
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
