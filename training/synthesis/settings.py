"""Settings of the synthetic pairs; a part of every recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from longilesion.geometry import Triple
from longilesion.settings import Settings


class LifenetSize(Settings):
    """A class of LiFE-Net's lesions (appendix C, main parametrization)."""

    probability: float = Field(ge=0, le=1, description="share of the exams with lesions that have this class alone")
    radius_mm: float = Field(gt=0, description="mean of the ellipsoid's semi-axes")
    count: tuple[int, int] = Field(description="fewest and most lesions of an exam")
    elastic_sigma: tuple[float, float] = Field(
        description="deviation of the elastic deformation, in the paper's voxels"
    )

    @model_validator(mode="after")
    def _check(self) -> LifenetSize:
        for name, (low, high) in (("count", self.count), ("elastic_sigma", self.elastic_sigma)):
            if not 0 <= low <= high:
                raise ValueError(f"{name}: expected a range of numbers from 0 on, not {low:g} to {high:g}")
        return self


class LifenetSettings(Settings):
    """LiFE-Net's lesions (section 2.2, appendices B and C); the defaults are the paper's numbers where it gives one."""

    organs: tuple[str, ...] = Field(default=("liver",), description="the organs, by mask, in which lesions lie")
    tissue_without_mask: Literal["soft", "lung", "fat", "bone"] = Field(
        default="soft", description="where lesions lie in a volume that has none of these masks"
    )
    healthy_share: float = Field(default=0.33, ge=0, le=1, description="exams without any lesion (appendix B)")
    tiny: LifenetSize = LifenetSize(probability=0.1, radius_mm=6, count=(5, 8), elastic_sigma=(0.7, 0.9))
    small: LifenetSize = LifenetSize(probability=0.25, radius_mm=8, count=(4, 6), elastic_sigma=(1.0, 1.25))
    medium: LifenetSize = LifenetSize(probability=0.3, radius_mm=9, count=(1, 3), elastic_sigma=(1.5, 2.5))
    large: LifenetSize = LifenetSize(probability=0.2, radius_mm=14, count=(1, 2), elastic_sigma=(2.5, 3.5))
    axis_factor: tuple[float, float] = Field(
        default=(0.75, 1.25), description="range of each semi-axis against the class's radius"
    )
    elastic_voxel_zyx_mm: Triple = Field(default=(2.0, 1.37, 1.5), description="the paper's voxels (appendix B)")
    smallest_diameter_mm: float = Field(
        default=8.0, ge=0, description="a lesion with a smaller largest axial diameter is drawn anew (appendix C)"
    )
    contrast_hu: tuple[float, float] = Field(
        default=(30.0, 80.0), description="range of the mean difference to the tissue around (appendix C)"
    )
    brighter: bool = Field(default=False, description="lesions are brighter than the tissue around, not darker")
    texture_hu: tuple[float, float] = Field(
        default=(4.0, 12.0), description="range of the texture's strength; the paper gives none"
    )
    edge_mm: tuple[float, float] = Field(
        default=(0.5, 2.0), description="range of the border's width; the paper gives none"
    )
    only_followup_share: float = Field(default=0.2, ge=0, le=1, description="of the lesions (section 2.2)")
    only_baseline_share: float = Field(default=0.2, ge=0, le=1, description="of the lesions (section 2.2)")
    stable_share: float = Field(
        default=0.3, ge=0, le=1, description="of the exams; their lesions in both scans stay (section 2.2)"
    )
    growing_share: float = Field(default=0.3, ge=0, le=1, description="they grow (section 2.2)")
    shrinking_share: float = Field(
        default=0.1, ge=0, le=1, description="they shrink; in the exams left over some stay and some grow (section 2.2)"
    )
    growth: tuple[float, float] = Field(
        default=(1.3, 1.7), description="range of a growing lesion's semi-axes against the baseline's (section 2.2)"
    )
    shrinkage: tuple[float, float] = Field(default=(0.5, 0.7), description="the same of a shrinking one (section 2.2)")
    shift_mm: tuple[float, float] = Field(
        default=(0.0, 6.0), description="range of the way between the centres in both scans (section 2.2)"
    )
    outlier_deviations: float = Field(
        default=2.5, gt=0, description="organ that is so many robust deviations brighter or darker is none to lie in"
    )
    outlier_hu: float = Field(default=15.0, gt=0, description="but never less than this")
    outlier_ml: float = Field(default=0.05, ge=0, description="smaller outliers are noise")
    gap_mm: float = Field(default=1.0, ge=0, description="what is left free around each lesion")

    @property
    def sizes(self) -> tuple[LifenetSize, ...]:
        """The classes; the remaining probability is that of exams that mix them (appendix C)."""
        return self.tiny, self.small, self.medium, self.large

    @model_validator(mode="after")
    def _check(self) -> LifenetSettings:
        for name, total in (
            ("probability", sum(size.probability for size in self.sizes)),
            ("only_followup_share + only_baseline_share", self.only_followup_share + self.only_baseline_share),
            (
                "stable_share + growing_share + shrinking_share",
                self.stable_share + self.growing_share + self.shrinking_share,
            ),
        ):
            if total > 1 + 1e-9:
                raise ValueError(f"{name}: expected a sum of at most 1, not {total:g}")
        for name in ("axis_factor", "contrast_hu", "texture_hu", "edge_mm", "growth", "shrinkage", "shift_mm"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name}: expected a range of numbers from 0 on, not {low:g} to {high:g}")
        return self


class FateShares(Settings):
    """Shares of the fates of lesions other than distractors; weights, normalised to 1."""

    persists: float = Field(default=0.42, ge=0)
    new: float = Field(default=0.28, ge=0)
    gone: float = Field(default=0.30, ge=0)


class ChangeShares(Settings):
    """Shares of stable, growing and shrinking among persisting lesions; weights, normalised to 1."""

    stays: float = Field(default=0.30, ge=0)
    grows: float = Field(default=0.35, ge=0)
    shrinks: float = Field(default=0.35, ge=0)


class TissueShares(Settings):
    """Shares of the tissues; weights among the tissues near by."""

    soft: float = Field(default=0.65, ge=0)
    lung: float = Field(default=0.25, ge=0)
    fat: float = Field(default=0.10, ge=0)
    bone: float = Field(default=0.0, ge=0)


class MotionSettings(Settings):
    """Motion of the patient and the organs between the scans."""

    rotation_deg: float = Field(default=6.0, ge=0, le=30, description="up to as much about each axis")
    deformation_mm: tuple[float, float] = Field(
        default=(0.3, 3.0), description="range of the smooth deformation's standard deviation"
    )
    breathing_mm: float = Field(
        default=0.0, ge=0, le=30, description="standard deviation of the diaphragm's height, where lungs are seen"
    )


class ProtocolChanges(Settings):
    """Differences between the two scans' protocols; everything else is drawn once for both."""

    contrast: bool = Field(default=True, description="the phase of enhancement")
    dose: bool = Field(default=True, description="the noise's strength and grain")
    kernel: bool = Field(default=True, description="the sharpness")
    slices: bool = Field(default=True, description="thickness and spacing")


class SeriesSettings(Settings):
    """What becomes of lesions after the second time point of a series, from one time point to the next."""

    vanishing_share: float = Field(default=0.2, ge=0, le=1, description="of the lesions, that are gone")
    returning_share: float = Field(default=0.2, ge=0, le=1, description="of the lesions that are gone, that come back")


class _Kinds(Settings):
    """Shares of lesions of a tissue that have a character of their own; by default none has."""

    @model_validator(mode="after")
    def _check(self) -> _Kinds:
        total = sum(getattr(self, name) for name in self.exclusive)
        if total > 1 + 1e-9:
            raise ValueError(f"{' + '.join(self.exclusive)}: expected a sum of at most 1, not {total:g}")
        return self

    @property
    def exclusive(self) -> tuple[str, ...]:
        """The kinds of which a lesion has one at most."""
        return ()


class LungKinds(_Kinds):
    """Kinds of lung nodules."""

    spiculated: float = Field(default=0.0, ge=0, le=1, description="with thin strands, some of them to the pleura")
    part_solid: float = Field(default=0.0, ge=0, le=1, description="a solid core in ground glass of -700 to -400 HU")
    ground_glass: float = Field(default=0.0, ge=0, le=1, description="ground glass without a core")
    cavitating: float = Field(default=0.0, ge=0, le=1, description="with air inside")
    at_pleura: float = Field(default=0.0, ge=0, le=1, description="nodules with a broad base on the pleura")

    @property
    def exclusive(self) -> tuple[str, ...]:
        """All but the site."""
        return "spiculated", "part_solid", "ground_glass", "cavitating"


class SoftKinds(_Kinds):
    """Kinds of lesions in soft tissue, such as the liver."""

    rim: float = Field(default=0.0, ge=0, le=1, description="with an enhancing rim around a dark inside")
    necrotic: float = Field(default=0.0, ge=0, le=1, description="large ones with an irregular dark core")
    fuzzy: float = Field(default=0.0, ge=0, le=1, description="with a border of 3 to 7 mm")
    subcapsular: float = Field(default=0.0, ge=0, le=1, description="at the tissue's border, bulging up to 3 mm")

    @property
    def exclusive(self) -> tuple[str, ...]:
        """Those that say what is inside."""
        return "rim", "necrotic"


class BoneKinds(_Kinds):
    """Kinds of lesions in bone."""

    lytic: float = Field(default=0.0, ge=0, le=1, description="soft tissue in place of bone, with eroded cortex")
    sclerotic: float = Field(default=0.0, ge=0, le=1, description="uneven, with a fuzzy border")
    mixed: float = Field(default=0.0, ge=0, le=1, description="lytic and sclerotic parts")

    @property
    def exclusive(self) -> tuple[str, ...]:
        """All of them."""
        return "lytic", "sclerotic", "mixed"


class NodeKinds(_Kinds):
    """Kinds of lymph nodes."""

    hilum: float = Field(default=0.0, ge=0, le=1, description="with a fatty hilum")


class SynthesisSettings(Settings):
    """The generator of the lesions (general for all tissues, or LiFE-Net's for one organ), and the changes.

    The shipped model was trained with the defaults of version 0.2.0, before lesions kept to their host tissue.
    """

    generator: Literal["general", "lifenet"] = "general"
    lifenet: LifenetSettings = LifenetSettings()

    attempts: tuple[int, int] = Field(
        default=(3, 8), description="range of how many lesions are placed near the first, unless they collide"
    )
    whole_attempts: tuple[int, int] = Field(default=(5, 16), description="the same for a whole scan")
    fates: FateShares = FateShares()
    changes: ChangeShares = ChangeShares()
    tissues: TissueShares = TissueShares()
    organs: tuple[str, ...] = Field(
        default=(), description="organs with a mask in which lesions of soft tissue are sought; all of them if empty"
    )
    organ_share: float = Field(
        default=0.0, ge=0, le=1, description="of the lesions of soft tissue that are sought in those organs alone"
    )
    node_share: float = Field(
        default=0.0, ge=0, le=1, description="of the lesions in fat, other than below the skin, that are lymph nodes"
    )

    lung: LungKinds = LungKinds()
    soft: SoftKinds = SoftKinds()
    bone: BoneKinds = BoneKinds()
    node: NodeKinds = NodeKinds()

    real_share: float = Field(default=0.5, ge=0, le=1, description="of the cut-outs around a real lesion, if there is")
    real_shape_share: float = Field(default=0.4, ge=0, le=1, description="of painted lesions with a real one's shape")
    real_size_share: float = Field(
        default=0.0, ge=0, le=1, description="of those that also have its volume, within the tissue's limits"
    )
    anatomy_share: float = Field(
        default=0.0, ge=0, le=1, description="of real lesions whose change is led by the anatomy around them"
    )

    distractor_share: float = Field(default=0.15, ge=0, le=1, description="of painted lesions that nobody marked")
    merging_share: float = Field(
        default=0.0, ge=0, le=1, description="of persisting lesions that take in a second one beside them"
    )
    splitting_share: float = Field(
        default=0.0, ge=0, le=1, description="of larger persisting lesions of which two parts are left"
    )
    scar_share: float = Field(default=0.0, ge=0, le=1, description="of gone lesions that leave a faint residual")
    missing_outlines: float = Field(
        default=0.0, ge=0, le=1, description="share of persisting lesions that the baseline's mask misses"
    )
    false_outlines: float = Field(
        default=0.0, ge=0, le=1, description="share of the baseline's outlines, on average, that mark normal tissue"
    )

    series: SeriesSettings = SeriesSettings()
    motion: MotionSettings = MotionSettings()
    protocol_changes: ProtocolChanges = ProtocolChanges()

    @model_validator(mode="after")
    def _check(self) -> SynthesisSettings:
        for name, (low, high) in (
            ("attempts", self.attempts),
            ("whole_attempts", self.whole_attempts),
            ("motion.deformation_mm", self.motion.deformation_mm),
        ):
            if not 0 <= low <= high:
                raise ValueError(f"{name}: expected a range of numbers from 0 on, not {low} to {high}")
        for name, shares in (("fates", self.fates), ("changes", self.changes), ("tissues", self.tissues)):
            if not sum(shares.model_dump().values()):
                raise ValueError(f"{name}: expected at least one share above 0")
        return self
