"""Training samples of a model of lesion types: windows of exams, with the lesions in them, augmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from longilesion.components import lesion_voxels
from longilesion.diagnosis.encoding import encode_phases
from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.errors import InputError
from longilesion.geometry import box_slices
from longilesion.networks.lesion_queries import PhaseInput
from training.augmentation import drawn_mirror, drawn_turn, seeded, varied_images
from training.diagnosis.exams import TypedExam
from training.diagnosis.loss import LesionTargets
from training.diagnosis.recipe import DiagnosisRecipe, ExamAugmentation
from training.exam_dataset import window_start
from training.loading import Share, sample_indices
from training.samples import sample_seed

# Kinds of random changes of a window; each has its own stream of random numbers. Phases follow the last, in order.
_SPATIAL, _ALIKE, _PHASES = range(3)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowBatch:
    """Encoded windows and the lesions in them; `seed` decides the points at which the loss compares masks."""

    input: PhaseInput
    targets: LesionTargets
    seed: int
    # Damaged cut-outs: exams are in memory.
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> WindowBatch:
        """The same batch on another device."""
        targets = self.targets
        return replace(
            self,
            input=PhaseInput(phases=self.input.phases.to(device), is_there=self.input.is_there.to(device)),
            targets=LesionTargets(
                semantic=targets.semantic.to(device),
                masks=tuple(each.to(device) for each in targets.masks),
                classes=tuple(each.to(device) for each in targets.classes),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Window:
    """An encoded window: images, a channel of each phase after the other, and its lesions' masks and classes."""

    images: Float32[Tensor, "phases channels z y x"]
    is_there: Bool[Tensor, " phases"]
    masks: Float32[Tensor, "lesions z y x"]
    classes: tuple[int, ...]


class ExamWindows:
    """The windows of a run: every exam once per round, one window each.

    Windows depend on the seed and their number alone, so that a run can be resumed.
    """

    def __init__(self, exams: Sequence[TypedExam], recipe: DiagnosisRecipe, *, seed: int) -> None:
        """Raises InputError where there is no exam with a phase of the model."""
        self._exams = [exam for exam in exams if exam.is_there.any()]
        if not self._exams:
            raise InputError(f"no exam with one of the phases {', '.join(recipe.model.phases)}; expected some")
        self._recipe, self._seed = recipe, seed

    def batches(self, steps: range, share: Share) -> Iterator[WindowBatch]:
        """The batches of a process for those steps of the run."""
        for step in steps:
            windows = [self._window(index) for index in sample_indices(1, self._recipe.batch_size, share, step=step)]
            yield collated(windows, seed=sample_seed(self._seed, step * share.processes + share.rank))

    def _window(self, index: int) -> _Window:
        """Window `index` of the run, augmented."""
        settings, count = self._recipe.model, len(self._exams)
        order = np.random.default_rng((self._seed, 0, index // count)).permutation(count)
        generator = np.random.default_rng((self._seed, 1, index))
        exam = self._exams[int(order[index % count])]
        start = window_start(exam.ids, settings.shape_zyx, generator, lesion_share=self._recipe.windows.lesion_share)
        box = box_slices(start, np.add(start, settings.shape_zyx))
        is_there = _shown(exam.is_there, settings, generator, self._recipe.windows.hidden_share)
        encoded = encode_phases([exam.hu[(slice(None), *box)].astype(np.float32)], [is_there], settings)
        ids = exam.ids[box]
        present = list(lesion_voxels(ids))
        window = _Window(
            images=encoded.phases[0],
            is_there=encoded.is_there[0],
            masks=torch.from_numpy(
                np.stack([ids == each for each in present]).astype(np.float32)
                if present
                else np.zeros((0, *ids.shape), np.float32)
            ),
            classes=tuple(1 + settings.types.index(exam.types[each]) for each in present),
        )
        return _augmented(window, self._recipe.augmentation, settings, sample_seed(self._seed, index))


def collated(windows: Sequence[_Window], *, seed: int) -> WindowBatch:
    """Windows as a batch; a lesion that has been turned out of its window is none of it."""
    masks, classes, semantic = [], [], []
    for window in windows:
        own = window.masks > 0.5
        is_seen = own.flatten(1).any(1)
        labels = torch.tensor(window.classes, dtype=torch.long)
        masks.append(own[is_seen])
        classes.append(labels[is_seen])
        numbers = torch.zeros(own.shape[1:], dtype=torch.long)
        for mask, label in zip(masks[-1], classes[-1], strict=True):
            numbers[mask] = label
        semantic.append(numbers)
    return WindowBatch(
        input=PhaseInput(
            phases=torch.stack([window.images for window in windows]),
            is_there=torch.stack([window.is_there for window in windows]),
        ),
        targets=LesionTargets(semantic=torch.stack(semantic), masks=tuple(masks), classes=tuple(classes)),
        seed=seed,
    )


def _shown(
    is_there: Bool[np.ndarray, " phases"],
    settings: DiagnosisSettings,
    generator: np.random.Generator,
    hidden_share: float,
) -> Bool[np.ndarray, " phases"]:
    """The phases that a sample shows: the venous one, or one at least, and each of the others as often as wanted."""
    kept = is_there & (generator.random(len(is_there)) >= hidden_share)
    if "venous" in settings.phases:
        venous = settings.phases.index("venous")
        kept[venous] = is_there[venous]
    return kept if kept.any() else is_there


def _augmented(window: _Window, settings: ExamAugmentation, model: DiagnosisSettings, seed: int) -> _Window:
    """The window turned and mirrored as a whole, with varied intensities; absent phases stay zero."""
    phases, channels, *shape = window.images.shape
    z, y, x = shape
    with seeded(seed, _SPATIAL):
        turn = drawn_turn(settings.spatial, (z, y, x), model.spacing_zyx_mm)
        mirror = drawn_mirror(settings.spatial)
    maps = mirror(turn(torch.cat((window.images.flatten(0, 1), window.masks))[None]))[0]
    images, masks = maps[: phases * channels].unflatten(0, (phases, channels)), maps[phases * channels :]
    varied = []
    for phase, (image, is_there) in enumerate(zip(images, window.is_there.tolist(), strict=True)):
        if is_there:
            for drawn, intensity in ((_ALIKE, settings.joint_intensity), (_PHASES + phase, settings.intensity)):
                if intensity.probability:
                    with seeded(seed, drawn):
                        image = varied_images(image, intensity).clamp(0, 1)
        varied.append(image)
    return replace(window, images=torch.stack(varied), masks=masks)
