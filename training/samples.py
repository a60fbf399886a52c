"""Training samples: lesions sampled by the library, with jitter of placement, clicks and outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32

from longilesion.case import Click, LesionMap, LesionPrompt, Scan
from longilesion.config import ModelSettings, VoiSettings
from longilesion.encoding import encode
from longilesion.geometry import Grid, Triple, triple
from longilesion.voi import Placement, VoiPair, lattice_around, resample, sample_voi_pair
from training.augmentation import augmented
from training.batch import Batch
from training.cutout import GREATEST_SHIFT, CutOut
from training.mask_errors import with_mask_errors
from training.recipe import JitterSettings, Recipe

# A present lesion with fewer voxels in the lattice would be a wrong sample of absence.
_FEWEST_VOXELS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One lesion as the library samples it, with its true follow-up mask on the follow-up lattice.

    `seed` determines its augmentation, `origin` is the patient or pair, `skipped` lists damaged cut-outs that it
    replaces.
    """

    pair: VoiPair
    target: Float32[np.ndarray, "z y x"]
    is_present: bool
    seed: int = 0
    origin: str = ""
    skipped: tuple[str, ...] = ()


def sample_lesion(
    lesion: CutOut, settings: ModelSettings, jitter: JitterSettings, generator: np.random.Generator
) -> Sample | None:
    """A lesion at a random offset from the placement of inference; None where the lattice then misses it."""
    voi = jitter.lattice(settings.voi)
    placement = _jittered(lesion.placement, lesion.prompt, generator, jitter)
    placement = _moved_lattices(placement, lesion, generator, jitter, voi)
    reach_zyx_mm = jitter.click_voxels * placement.zoom * np.array(voi.spacing_zyx_mm)
    prompt = _moved_clicks(lesion.prompt, generator, reach_zyx_mm)
    pair = sample_voi_pair(lesion.case, prompt, placement, voi)
    target = sample_target(lesion.truth, lesion.true_id, pair.followup.grid)
    if lesion.true_id is not None and target.sum() <= _FEWEST_VOXELS:
        return None
    return Sample(pair=pair, target=target, is_present=lesion.true_id is not None)


def is_seen(lesion: CutOut, settings: ModelSettings, jitter: JitterSettings) -> bool:
    """Whether a lesion lies in its lattice without jitter; always true for one that is gone."""
    return sample_lesion(lesion, settings, unjittered(jitter), np.random.default_rng(0)) is not None


def unjittered(jitter: JitterSettings) -> JitterSettings:
    """The same lattice, placed as in inference."""
    return JitterSettings(shift_mm=0.0, unaligned_share=0.0, zoom_factor=1.0, placements=1, shape_zyx=jitter.shape_zyx)


def sample_target(truth: LesionMap, true_id: int | None, lattice: Grid) -> Float32[np.ndarray, "z y x"]:
    """The true mask of a lesion (0 or 1) on a lattice of the follow-up scan; empty where it is gone."""
    if true_id is None:
        return np.zeros(lattice.shape_zyx, np.float32)
    ids, grid = truth.grid.lps_view(truth.ids)
    start, step = grid.axis_steps(lattice)
    share = resample(ids == true_id, start_zyx=start, step_zyx=step, shape_zyx=lattice.shape_zyx)
    return (share > 0.5).astype(np.float32)


def sample_seed(seed: int, index: int) -> int:
    """The seed of everything random after sample `index` of a run is drawn."""
    return int(np.random.SeedSequence((seed, 3, index)).generate_state(1)[0])


def collate(samples: Sequence[Sample], recipe: Recipe) -> Batch:
    """Encodes samples as a batch with the library's own encoding, after errors of the outlines; then augments it.

    Some samples' baselines are hidden, as often as the recipe says.
    """
    pairs = [
        with_mask_errors(
            _masked(sample.pair, recipe.baseline_masking, np.random.default_rng((sample.seed, 2))),
            recipe.mask_errors,
            np.random.default_rng((sample.seed, 1)),
        )
        for sample in samples
    ]
    batch = Batch(
        input=encode(pairs, recipe.model.encoding),
        target=torch.from_numpy(np.stack([sample.target for sample in samples])[:, None]),
        present=torch.tensor([sample.is_present for sample in samples]),
        origins=tuple(sample.origin for sample in samples),
        outlined=tuple(pair.baseline_mask is not None and bool(pair.baseline_mask.any()) for pair in pairs),
        skipped=tuple(name for sample in samples for name in sample.skipped),
    )
    return augmented(
        batch,
        recipe.augmentation,
        recipe.model.encoding,
        spacing_zyx_mm=recipe.model.voi.spacing_zyx_mm,
        seeds=[sample.seed for sample in samples],
    )


def _masked(pair: VoiPair, share: float, generator: np.random.Generator) -> VoiPair:
    if generator.random() >= share:
        return pair
    return replace(pair, baseline=None, baseline_mask=None, baseline_others=None, earlier=())


def _jittered(
    placement: Placement, prompt: LesionPrompt, generator: np.random.Generator, jitter: JitterSettings
) -> Placement:
    centre = placement.followup_xyz_mm
    if generator.random() < jitter.unaligned_share:
        centre = prompt.followup.point_xyz_mm
    shift = np.clip(generator.normal(0, 1, 3), -GREATEST_SHIFT, GREATEST_SHIFT) * jitter.shift_mm
    limit = np.log(jitter.zoom_factor)
    zoom = placement.zoom * float(np.exp(generator.uniform(-limit, limit)))
    return replace(placement, followup_xyz_mm=triple(np.array(centre) + shift), zoom=zoom)


def _moved_lattices(
    placement: Placement,
    lesion: CutOut,
    generator: np.random.Generator,
    jitter: JitterSettings,
    voi: VoiSettings,
) -> Placement:
    """The lattices moved along their own axes: each by an offset of its own, and all by a common one.

    The sampling of Promptable LongiSeg (section 3.2); its prompts stay on their scans.
    """
    if not any(jitter.reach_voxels(voi.shape_zyx)):
        return placement
    prompt, case, zoom = lesion.prompt, lesion.case, placement.zoom
    # A cut-out lacks the time points without a position; it is to be moved as the whole scans are.
    count = 2 + sum(at is not None for at in placement.earlier)
    own = generator.uniform(-jitter.shift_voxels, jitter.shift_voxels, (count, 3))
    offsets = own + jitter.centre_share / 2 * np.array(voi.shape_zyx) * generator.uniform(-1, 1, 3)
    followup = case.followups[prompt.followup.scan_name]
    before = iter(offsets[2:])
    baseline_xyz_mm = placement.baseline_xyz_mm
    if prompt.baseline is not None and baseline_xyz_mm is not None:
        prior = case.baselines[prompt.baseline.scan_name]
        baseline_xyz_mm = _moved(baseline_xyz_mm, offsets[1], prior.scan, voi, zoom=zoom)
    return replace(
        placement,
        followup_xyz_mm=_moved(placement.followup_xyz_mm, offsets[0], followup, voi, zoom=zoom),
        baseline_xyz_mm=baseline_xyz_mm,
        earlier=tuple(
            None
            if at is None
            else replace(
                at,
                point_xyz_mm=_moved(at.point_xyz_mm, next(before), visit.baselines[at.scan_name].scan, voi, zoom=zoom),
            )
            for at, visit in zip(placement.earlier, case.earlier, strict=bool(placement.earlier))
        ),
    )


def _moved(
    centre_xyz_mm: Triple, offset_zyx_voxels: Float[np.ndarray, "3"], scan: Scan, voi: VoiSettings, *, zoom: float
) -> Triple:
    """The centre of a lattice that has moved by so many of its voxels."""
    _, grid = scan.grid.lps_view(scan.hu)
    lattice = lattice_around(grid, centre_xyz_mm, voi, zoom=zoom)
    z, y, x = (np.array(voi.shape_zyx) - 1) / 2 + offset_zyx_voxels
    return lattice.world_xyz_mm((z, y, x))


def _moved_clicks(
    prompt: LesionPrompt, generator: np.random.Generator, reach_zyx_mm: Float[np.ndarray, "3"]
) -> LesionPrompt:
    """Both clicks moved by a random offset of up to that much along each axis."""
    if not reach_zyx_mm.any():
        return prompt
    reach_xyz_mm = reach_zyx_mm[::-1]
    moved: list[Click | None] = []
    for click in (prompt.followup, prompt.baseline):
        shift = generator.uniform(-reach_xyz_mm, reach_xyz_mm)
        moved.append(
            None if click is None else replace(click, point_xyz_mm=triple(np.array(click.point_xyz_mm) + shift))
        )
    return replace(prompt, followup=moved[0] or prompt.followup, baseline=moved[1])
