"""A complete evaluation: every exam is read once and scored for every method, then the scores are summarised."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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

_PACKAGES = ("connected-components-3d", "monai", "numpy", "scikit-learn", "scipy", "torch")

_log = logging.getLogger(__name__)


class EvaluationReport(BaseModel):
    """All results of an evaluation, as written to evaluation.json.

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
    """Scores methods; `without_clicks` is the first of them run without the follow-up's clicks."""
    everything = [*methods, *([] if without_clicks is None else [without_clicks])]
    scores: dict[str, list[ExamScore]] = {method.name: [] for method in everything}
    for warning in dict.fromkeys(warning for method in everything for warning in method.warnings):
        _log.warning("%s", warning)
    noticed: list[str] = []
    for files in exams:
        exam, contradictions = read_exam(files)
        for warning in contradictions:
            _log.warning("%s", warning)
        noticed += contradictions
        for method in everything:
            # Clicks that a method was not given must not affect its score.
            known = replace(exam, clicks={}) if method is without_clicks else exam
            scores[method.name].append(score_exam(known, method.predict(files, exam), settings))
    warnings = {method.name: [*method.warnings, *noticed] for method in everything}
    first_step = None if without_clicks is None else without_clicks.name
    return sum_up(scores, settings, warnings=warnings, without_clicks=first_step, draws=draws, seed=seed)


def sum_up(
    scores: Mapping[str, Sequence[ExamScore]],
    settings: ScoringSettings,
    *,
    warnings: Mapping[str, Sequence[str]],
    without_clicks: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> EvaluationRun:
    """Summarises each method's scores of the same exams; `without_clicks` is the key of the first's without clicks."""
    bootstrap = Bootstrap(len(next(iter(scores.values()))), draws=draws, seed=seed)
    summaries = {name: summarise(name, own, bootstrap, warnings=warnings.get(name, ())) for name, own in scores.items()}
    compared = [summary for name, summary in summaries.items() if name != without_clicks]
    report = EvaluationReport(
        versions={"longilesion": longilesion.__version__, **{name: version(name) for name in _PACKAGES}},
        settings=settings,
        draws=draws,
        seed=seed,
        evaluations=tuple(summaries.values()),
        ranks=tuple(rank(compared)) if len(compared) > 1 else (),
        differences=tuple(compare(compared, bootstrap)),
        interaction=()
        if without_clicks is None
        else tuple(interaction(summaries[without_clicks], compared[0], bootstrap)),
    )
    detections = {name: [score.detection for score in own] for name, own in scores.items()}
    return EvaluationRun(report=report, detections=detections)
