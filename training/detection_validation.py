"""Validation of a detector during training: its candidates on held-out exams, by LiFE-Net's measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from longilesion.case import LesionMap
from longilesion.config import ModelSettings
from longilesion.ensemble import Ensemble, find_precision
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.detection import detection_figures
from longilesion.networks.interface import LesionNetwork
from training.detector import exam_candidates, exam_probability, lattice_scan, matched_lesions
from training.exam_cache import CachedExam
from training.exams import read_exam
from training.validation import Figure, Validation

FIGURES = ("mean_average_precision", "exam_auc", "sensitivity_0.2", "sensitivity_0.5")
# Lesions over this diameter count.
_OVER_MM = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionValidation(Validation):
    """Exams of patients that the network does not train on."""

    exams: Sequence[CachedExam]
    best: ClassVar[str] = "mean_average_precision"

    def figures(
        self, network: LesionNetwork, settings: ModelSettings, *, rank: int, processes: int
    ) -> dict[str, Figure]:
        """The figures over all exams, in the first process: they are no means over exams."""
        del processes
        if rank:
            return dict.fromkeys(FIGURES, Figure())
        device = next(network.parameters()).device
        detector = Ensemble.of(
            settings.with_views(()),
            [network.eval()],
            device=device,
            precision=find_precision("auto", device),
            name="validation",
        )
        lesions = []
        for cached in self.exams:
            exam = read_exam(cached.path)
            scan = lattice_scan(exam)
            candidates = exam_candidates(exam_probability(exam, detector), scan.grid, scan, settings)
            lesions.append(matched_lesions(candidates, LesionMap(ids=exam.ids, grid=scan.grid), exam))
        # Without intervals, which need no draws.
        found = detection_figures(lesions, Bootstrap(len(lesions), draws=1, seed=0), over_mm=_OVER_MM)
        values = (found.mean_average_precision, found.exam_auc, *found.sensitivity.values())
        return {
            name: Figure() if estimate.value is None else Figure(total=estimate.value, count=1.0)
            for name, estimate in zip(FIGURES, values, strict=True)
        }

    def summary(self, means: Mapping[str, float]) -> str:
        """The mean average precision."""
        precision = means["mean_average_precision"]
        return f"mean average precision {precision:.3f} over {len(self.exams)} exams, lesions over {_OVER_MM:g} mm"
