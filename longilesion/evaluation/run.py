"""A whole evaluation: every exam is read once and scored for every method, then the scores are summed up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from pydantic import BaseModel, ConfigDict

import longilesion
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.comparison import Difference, Interaction, Rank, compare, interaction, rank
from longilesion.evaluation.detection import ExamLesions
from longilesion.evaluation.exam import ScoringSettings
from longilesion.evaluation.folders import ExamFiles
from longilesion.evaluation.methods import Method
from longilesion.evaluation.reading import read_exam
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.evaluation.summary import Evaluation, summarise

_PACKAGES = ("monai", "numpy", "scikit-image", "scikit-learn", "scipy")

_log = logging.getLogger(__name__)


class EvaluationReport(BaseModel):
    """Everything that an evaluation found, as it is written to evaluation.json.

    `interaction` is the first method's, where it was also scored without the follow-up's clicks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: dict[str, str]
    settings: ScoringSettings
    draws: int
    seed: int
    evaluations: tuple[Evaluation, ...]
    ranks: tuple[Rank, ...]
    differences: tuple[Difference, ...]
    interaction: tuple[Interaction, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationRun:
    """The report, and each method's lesions for the detection curves."""

    report: EvaluationReport
    detections: Mapping[str, Sequence[ExamLesions]]


def evaluate_methods(
    exams: Iterable[ExamFiles],
    methods: Sequence[Method],
    settings: ScoringSettings,
    *,
    without_clicks: Method | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> EvaluationRun:
    """Scores methods, the first of which may also be given as it is without the follow-up's clicks."""
    everything = [*methods, *([] if without_clicks is None else [without_clicks])]
    scores: dict[str, list[ExamScore]] = {method.name: [] for method in everything}
    for method in everything:
        for warning in method.warnings:
            _log.warning("%s", warning)
    noticed: list[str] = []
    for files in exams:
        exam, warnings = read_exam(files)
        for warning in warnings:
            _log.warning("%s", warning)
        noticed += warnings
        for method in everything:
            scores[method.name].append(score_exam(exam, method.predict(files, exam), settings))
    bootstrap = Bootstrap(len(scores[methods[0].name]), draws=draws, seed=seed)
    summaries = {
        method.name: summarise(method.name, scores[method.name], bootstrap, warnings=[*method.warnings, *noticed])
        for method in everything
    }
    evaluations = [summaries[method.name] for method in methods]
    report = EvaluationReport(
        versions={"longilesion": longilesion.__version__, **{name: version(name) for name in _PACKAGES}},
        settings=settings,
        draws=draws,
        seed=seed,
        evaluations=tuple(summaries.values()),
        ranks=tuple(rank(evaluations)) if len(evaluations) > 1 else (),
        differences=tuple(compare(evaluations, bootstrap)),
        interaction=()
        if without_clicks is None
        else tuple(interaction(summaries[without_clicks.name], evaluations[0], bootstrap)),
    )
    return EvaluationRun(
        report=report,
        detections={name: [score.detection for score in exam_scores] for name, exam_scores in scores.items()},
    )
