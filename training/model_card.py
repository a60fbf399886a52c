"""The model card of an exported model: description, training data, accuracy, reproduction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from longilesion.config import Axis, ModelSettings, Thresholds
from longilesion.evaluation.run import EvaluationReport
from longilesion.evaluation.tables import sections, to_markdown
from longilesion.networks.interface import LossPart
from training.members import AS_TRAINED, FITTED, Joined, joined_provenance
from training.recipe import Recipe

CARD_FILE = "MODEL_CARD.md"
OUT_OF_FOLD = "out of fold"

_SHOWN = ("Challenge score", "Means over lesions", "Strata")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """The contents of a card."""

    name: str
    members: Sequence[Joined]
    thresholds: Thresholds
    provenance: dict[str, str]
    data_licence: str | None
    mirror_axes: Sequence[Axis] | None
    zoom_factors: Sequence[float] | None
    report: EvaluationReport | None

    @property
    def judges_presence(self) -> bool:
        """Whether any member predicts the presence."""
        return any(member.judges_presence for member in self.members)

    def heading(self, number: int) -> str:
        """The heading of what is said of one of several members; empty where there is one."""
        if len(self.members) == 1:
            return ""
        share = self.members[number].member.weight / sum(each.member.weight for each in self.members)
        return f"### Member {number + 1} of {len(self.members)}, {share:.0%} of the mean\n\n"


_FOLLOWS_LESIONS = (
    "Research on longitudinal lesion segmentation in CT: outlines of lesions that somebody has marked in a\n"
    "baseline scan, or clicked on in the follow-up. It does not look for lesions, and its outlines have to be\n"
    "checked.\n"
)
_FINDS_LESIONS = (
    "Research on the detection of lesions in CT (`--find-new`): candidates in the organ that it was trained on, none\n"
    "of which anybody has confirmed. It misses lesions, and what it finds has to be checked.\n"
)
_SEES_A_LESION = (
    "Given a lesion's neighbourhood in the baseline scan (with its outline, if there is one) and in the\n"
    "follow-up scan, it says where the lesion is"
)
_SEES_A_WINDOW = (
    "Given a window of the follow-up scan, and the same of the registered baseline scan (with its\n"
    "outlines, if there are any), it says where lesions are"
)


def model_card(model: Model) -> str:
    """The card in Markdown."""
    parts = (
        f"# Model card: {model.name}\n",
        "**For research use only.** Not a medical device; not validated on patients followed in the clinic.\n",
        *_description(model),
        *_training(model),
        *_figures(model.report),
        *_limits(model),
        *_repetition(model),
        "## Licence\n",
        _licence(model),
    )
    return "\n".join(parts)


def _description(model: Model) -> Iterator[str]:
    judges_presence = model.judges_presence
    yield "## What it is\n"
    if len(model.members) > 1:
        yield "The weighted mean of the members below, each with a lattice and channels of its own.\n"
    for number, each in enumerate(model.members):
        yield f"{model.heading(number)}{_member(each)}"
        yield "| | |\n|---|---|"
        yield from (f"| {name} | {value} |" for name, value in _member_rows(each.member.settings))
        if len(model.members) > 1:
            yield ""
    if len(model.members) > 1:
        yield "### All members\n\n| | |\n|---|---|"
    yield f"| outline from probability | {model.thresholds.threshold:g} |"
    if judges_presence:
        yield f"| gone below presence | {model.thresholds.presence_threshold:g} |"
    yield "\n## What it is for\n"
    yield _FINDS_LESIONS if all(each.detects for each in model.members) else _FOLLOWS_LESIONS


def _member(each: Joined) -> str:
    first, number = each.member.networks[0], len(each.member.networks)
    count = "One network" if number == 1 else f"{number} networks, whose mean counts,"
    parameters = sum(parameter.numel() for parameter in first.parameters())
    presence = " and whether it is still there" if each.judges_presence else ""
    return (
        f"{count} of {parameters:,} parameters (`fold_k.safetensors`, float16):\n"
        f"{first.description}. `settings.json` holds all\n"
        f"settings. {_SEES_A_WINDOW if each.detects else _SEES_A_LESION}{presence}.\n"
    )


def _member_rows(settings: ModelSettings) -> Iterator[tuple[str, str]]:
    shape, spacing = (
        " x ".join(f"{value:g}" for value in each) for each in (settings.voi.shape_zyx, settings.voi.spacing_zyx_mm)
    )
    yield "lattice (z, y, x)", f"{shape} voxels of {spacing} mm"
    yield "follow-up's channels", ", ".join(settings.encoding.followup_channels)
    yield "baseline's channels", ", ".join(settings.encoding.baseline_channels)
    yield "mirrored views along", ", ".join(settings.inference.mirror_axes) or "no axis"
    yield "seen at the zoom times", ", ".join(f"{factor:g}" for factor in settings.inference.zoom_factors)


def _training(model: Model) -> Iterator[str]:
    yield "## What it was trained on\n"
    for number, each in enumerate(model.members):
        said = joined_provenance(each.parts, model.data_licence)
        yield f"{model.heading(number)}{said.get('data', 'Not recorded')}.\n"
        yield f"Licence and attribution of the data: {said.get('data licence', 'not recorded')}.\n"
        yield "| | |\n|---|---|"
        for name in ("recipe", "steps", "folds", "presence head", "versions"):
            if name in said:
                yield f"| {name} | {said[name]} |"
        if each.record is not None:
            rows = _recipe_rows(each.record.recipe, each.member.networks[0].loss_parts)
            yield from (f"| {name} | {value} |" for name, value in rows)
        yield ""


def _recipe_rows(recipe: Recipe, parts: Sequence[LossPart]) -> Iterator[tuple[str, str]]:
    optimizer, loss, jitter = recipe.optimizer, recipe.loss, recipe.jitter
    yield "lesions a step", str(recipe.batch_size)
    yield (
        "optimiser",
        f"{optimizer.kind}, learning rate {optimizer.learning_rate:g}, weight decay {optimizer.weight_decay:g}, "
        f"decay to the power of {optimizer.decay_exponent:g}, gradients clipped at {optimizer.gradient_clip:g}",
    )
    yield "average of weights", f"exponential, decay {recipe.average_decay:g}"
    weights = {"presence": loss.presence, "reconstruction": loss.reconstruction}
    others = "".join(f" + {weights[part]:g} {part}" for part in parts if part in weights)
    levels = ", at every resolution" if loss.deep_supervision else ""
    yield "loss", f"{loss.outline}{others}{levels}"
    yield "jitter", f"{jitter.shift_mm:g} mm, zoom {jitter.zoom_factor:g}"
    # A CPU that does not multiply it fast trains in single precision.
    otherwise = "" if recipe.precision == "32-true" else "; 32-true on a CPU without fast bfloat16"
    yield "precision", f"{recipe.precision}{otherwise}"


def _figures(report: EvaluationReport | None) -> Iterator[str]:
    yield "## Figures\n"
    if report is None or not report.evaluations:
        yield "None were given.\n"
        return
    if report.evaluations[0].name == OUT_OF_FOLD:
        yield "Every case was judged out of fold, by the network whose training had not seen its patient. The mean of"
        yield "several networks usually does a little better."
    yield f"Intervals: 95 %, {report.draws} draws of patients.\n"
    found = sections(
        report.evaluations,
        ranks=report.ranks,
        differences=report.differences,
        steps=report.interaction,
        tolerance_mm=report.settings.tolerance_mm,
    )
    for section in found:
        if section.title.startswith(_SHOWN):
            yield f"#{to_markdown(section)}"


def _limits(model: Model) -> Iterator[str]:
    yield "## Known limits\n"
    yield "- Small, faint and new lesions are the weak spots. A new lesion has no baseline outline: a click that misses"
    yield "  it misleads."
    if model.judges_presence:
        yield "- A lesion whose presence is below the threshold gets no outline, however likely one is; check"
        yield "  `presence` in the run report."
    yield "- Scanners, contrast phases and regions of the body that the data above lack are unknown to it."
    if model.judges_presence and sum(len(each.member.networks) for each in model.members) > 1:
        yield "- The presence threshold was chosen on single networks, after the figures above, in which each network"
        yield "  had its own; the mean of several networks is a little less extreme."
    yield ""


def _repetition(model: Model) -> Iterator[str]:
    is_mixed = len(model.members) > 1
    views = "" if model.mirror_axes is None else " ".join(("", "--mirror-axes", *model.mirror_axes))
    if model.zoom_factors is not None:
        views += " ".join((" --zoom-factors", *(f"{factor:g}" for factor in model.zoom_factors)))
    yield "## How to repeat it\n"
    yield "```"
    for number, each in enumerate(model.members, start=1):
        yield _training_command(each, f"OUTPUT_{number}" if is_mixed else "OUTPUT")
    if is_mixed:
        names = (f"OUTPUT_{k}{_exported(each)}:{each.member.weight:g}" for k, each in enumerate(model.members, start=1))
        exported = f"--members {' '.join(names)}"
    elif model.members[0].detects and len(model.members[0].member.networks) > 1:
        exported = "OUTPUT/*/fold_*"
    else:
        exported = f"OUTPUT{_exported(model.members[0])}"
    # Cross-validation has written the model itself.
    if views or exported != "OUTPUT/model":
        yield f"python -m training.export {exported} --output MODEL{views}"
    yield "```\n"


def _exported(each: Joined) -> str:
    """Where the training command leaves the member's bundle, in its output."""
    return "/model" if len(each.member.networks) > 1 else ""


def _training_command(each: Joined, output: str) -> str:
    """The lines that train the networks, and fit the presence head of a single one further if that was done."""
    said, record = joined_provenance(each.parts, None), each.record
    is_single, head = len(each.member.networks) == 1, said.get("presence head")
    # What is trained on, which fitting the head has to be told, too; and the rest.
    data, options = "", ""
    if record is not None:
        if is_single and record.recipe.data.shapes is not None:
            data += " --shapes SHAPES"
        if is_single and record.fold is not None:
            data += f" --fold {record.fold}"
        if record.steps != record.recipe.steps:
            options += f" --steps {record.steps}"
        if record.over_minutes is not None:
            options += f" --over-minutes {record.over_minutes:g}"
        if record.seed:
            options += f" --seed {record.seed}"
        if record.weights is not None:
            options += f" --weights {record.weights}"
    if not is_single and head == AS_TRAINED:
        options += " --no-presence"
    several = "study" if each.detects else "crossvalidate"
    command, recipe = (
        "train" if is_single else several,
        f"training/recipes/{said.get('recipe', 'RECIPE')}.toml --data DATA",
    )
    trained = f"python -m training.{command} {recipe}{data} --output {output}{options}"
    if not is_single or head != FITTED:
        return trained
    fitted = f"python -m training.presence {recipe}{data} --bundle {output}/last --output {output}/presence"
    return f"{trained}\n{fitted}"


def _licence(model: Model) -> str:
    attribution = ", with the attribution above" if "data licence" in model.provenance else ""
    return f"The weights are provided for {model.provenance['licence']}{attribution}.\n"
