"""Validation during training: whole cases through the pipeline, scored lesion by lesion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np

from longilesion.case import Case
from longilesion.config import ModelSettings
from longilesion.ensemble import Ensemble, find_precision
from longilesion.evaluation.exam import Exam, ScoringSettings
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.methods import prediction_of
from longilesion.evaluation.reading import read_exam
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.networks.interface import LesionNetwork
from longilesion.pipeline import segment_case
from training.preparation.prepared import PreparedCase, read_prepared_case
from training.recipe import Recipe
from training.synthesis.exams import exam_of
from training.synthesis.pairs import synthetic_pair
from training.synthesis.sources import Source

# A case is read or drawn when it is needed: whole scans of many cases would fill the memory.
ValidationCase: TypeAlias = Callable[[], tuple[Exam, Case]]

_Case = TypeVar("_Case")

_SYNTHETIC_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A sum over cases or lesions, and their number; sums of several processes can be added."""

    total: float = 0.0
    count: float = 0.0

    @property
    def mean(self) -> float:
        """NaN where nothing was counted."""
        return self.total / self.count if self.count else float("nan")


class Validation(ABC):
    """How a network is judged during training; `best` names the figure by which the best weights are chosen."""

    best: ClassVar[str]

    @abstractmethod
    def figures(
        self, network: LesionNetwork, settings: ModelSettings, *, rank: int, processes: int
    ) -> dict[str, Figure]:
        """The figures of this process' share, the same ones in every process; their sums are those of all."""

    @abstractmethod
    def summary(self, means: Mapping[str, float]) -> str:
        """The result in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseValidation(Validation):
    """Whole cases with their clicks, scored lesion by lesion."""

    cases: Sequence[ValidationCase]
    best: ClassVar[str] = "dice"

    def figures(
        self, network: LesionNetwork, settings: ModelSettings, *, rank: int, processes: int
    ) -> dict[str, Figure]:
        """Each process segments its share of the cases."""
        return validate(network, settings, self.cases[rank::processes])

    def summary(self, means: Mapping[str, float]) -> str:
        """The challenge's Dice."""
        return f"challenge Dice {means['dice']:.3f} over {len(self.cases)} cases"


FIGURES: Mapping[str, Callable[[ExamScore], Iterable[float | None]]] = {
    "dice": lambda score: [score.challenge.dice],
    "false_positive_ml": lambda score: [score.challenge.false_positive_ml],
    "false_negative_ml": lambda score: [score.challenge.false_negative_ml],
    "lesion_dice": lambda score: [lesion.dice for lesion in score.lesions],
    "present_kept": lambda score: [lesion.is_kept for lesion in score.lesions],
    "gone_recognised": lambda score: [lesion.is_recognised for lesion in score.lesions],
}


def prepared_cases(cases: Sequence[PreparedCase], recipe: Recipe) -> list[ValidationCase]:
    """Cases of a prepared data set, spread over it, as many as the recipe wants at most."""
    chosen = spread(cases, recipe.validation.cases)
    return [_reader(case, with_earlier=recipe.model.network.uses_earlier) for case in chosen]


def spread(cases: Sequence[_Case], limit: int) -> list[_Case]:
    """Up to so many of the cases, spread over them."""
    places = np.unique(np.linspace(0, len(cases) - 1, min(limit, len(cases))).round().astype(int)).tolist()
    return [cases[place] for place in places]


def synthetic_cases(sources: Sequence[Source], recipe: Recipe) -> list[ValidationCase]:
    """Pairs of held-out volumes, the same in every validation."""
    return [_drawer(sources, recipe, number) for number in range(recipe.validation.cases)]


def validate(network: LesionNetwork, settings: ModelSettings, cases: Iterable[ValidationCase]) -> dict[str, Figure]:
    """Segments cases with a network as in inference, but without mirrored views, to save time."""
    device = next(network.parameters()).device
    ensemble = Ensemble.of(
        settings.with_views(()),
        [network.eval()],
        device=device,
        precision=find_precision("auto", device),
        name="validation",
    )
    figures = dict.fromkeys(FIGURES, Figure())
    for case in cases:
        exam, scans = case()
        score = score_exam(exam, prediction_of(segment_case(scans, ensemble)), ScoringSettings())
        for name, values in FIGURES.items():
            known = [float(value) for value in values(score) if value is not None and not np.isnan(value)]
            figures[name] = Figure(total=figures[name].total + sum(known), count=figures[name].count + len(known))
    return figures


def _reader(case: PreparedCase, *, with_earlier: bool) -> ValidationCase:
    def read() -> tuple[Exam, Case]:
        exam, _ = read_exam(find_exams(case.folder)[0])
        return exam, read_prepared_case(case, with_earlier=with_earlier)[0]

    return read


def _drawer(sources: Sequence[Source], recipe: Recipe, number: int) -> ValidationCase:
    def draw() -> tuple[Exam, Case]:
        source = sources[number % len(sources)]
        generator = np.random.default_rng((_SYNTHETIC_SEED, number))
        priors = recipe.drawn_priors(generator)
        pair = synthetic_pair(source, generator, shapes=sources, settings=recipe.synthesis, whole=True, priors=priors)
        return exam_of(f"{source.name}/{number}", pair), pair.case

    return draw
