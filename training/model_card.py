"""The model card of an exported model: description, training data, accuracy, reproduction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from longilesion.config import ModelSettings
from longilesion.evaluation.run import EvaluationReport
from longilesion.evaluation.tables import sections, to_markdown
from longilesion.networks.interface import LesionNetwork, LossPart
from training.recipe import Recipe
from training.run_folder import RunRecord

CARD_FILE = "MODEL_CARD.md"
OUT_OF_FOLD = "out of fold"
FITTED, AS_TRAINED = "fitted further", "as trained"

_SHOWN = ("Challenge score", "Means over lesions", "Strata")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """The contents of a card; `record` is that of the first network's run."""

    name: str
    settings: ModelSettings
    networks: Sequence[LesionNetwork]
    provenance: dict[str, str]
    record: RunRecord | None
    report: EvaluationReport | None


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
    settings = model.settings
    first, number = model.networks[0], len(model.networks)
    count = "One network" if number == 1 else f"{number} networks, whose mean counts,"
    parameters = sum(parameter.numel() for parameter in first.parameters())
    judges_presence = first.presence is not None
    shape, spacing = (
        (f"{value:g}" for value in each) for each in (settings.voi.shape_zyx, settings.voi.spacing_zyx_mm)
    )
    yield "## What it is\n"
    yield (
        f"{count} of {parameters:,} parameters (`fold_k.safetensors`, float16):\n"
        f"{first.description}. `settings.json` holds all\n"
        "settings. Given a lesion's neighbourhood in the baseline scan (with its outline, if there is one) and in the\n"
        f"follow-up scan, it says where the lesion is{' and whether it is still there' if judges_presence else ''}.\n"
    )
    yield "| | |\n|---|---|"
    yield f"| lattice (z, y, x) | {' x '.join(shape)} voxels of {' x '.join(spacing)} mm |"
    yield f"| follow-up's channels | {', '.join(settings.encoding.followup_channels)} |"
    yield f"| baseline's channels | {', '.join(settings.encoding.baseline_channels)} |"
    yield f"| outline from probability | {settings.inference.threshold:g} |"
    if judges_presence:
        yield f"| gone below presence | {settings.inference.presence_threshold:g} |"
    yield f"| mirrored views along | {', '.join(settings.inference.mirror_axes) or 'no axis'} |\n"
    yield "## What it is for\n"
    yield (
        "Research on longitudinal lesion segmentation in CT: outlines of lesions that somebody has marked in a\n"
        "baseline scan, or clicked on in the follow-up. It does not look for lesions, and its outlines have to be\n"
        "checked.\n"
    )


def _training(model: Model) -> Iterator[str]:
    said = model.provenance
    yield "## What it was trained on\n"
    yield f"{said.get('data', 'Not recorded')}.\n"
    yield f"Licence and attribution of the data: {said.get('data licence', 'not recorded')}.\n"
    yield "| | |\n|---|---|"
    for name in ("recipe", "steps", "folds", "presence head", "versions"):
        if name in said:
            yield f"| {name} | {said[name]} |"
    if model.record is not None:
        rows = _recipe_rows(model.record.recipe, model.networks[0].loss_parts)
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
    yield "precision", recipe.precision


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
    judges_presence = model.networks[0].presence is not None
    if judges_presence:
        yield "- A lesion whose presence is below the threshold gets no outline, however likely one is; check"
        yield "  `presence` in the run report."
    yield "- Scanners, contrast phases and regions of the body that the data above lack are unknown to it."
    if judges_presence and len(model.networks) > 1:
        yield "- The presence threshold was chosen on single networks, after the figures above, in which each network"
        yield "  had its own; the mean of several networks is a little less extreme."
    yield ""


def _repetition(model: Model) -> Iterator[str]:
    command, record = "crossvalidate" if len(model.networks) > 1 else "train", model.record
    options = ""
    if record is not None:
        if len(model.networks) == 1 and record.fold is not None:
            options += f" --fold {record.fold}"
        if record.steps != record.recipe.steps:
            options += f" --steps {record.steps}"
        if record.seed:
            options += f" --seed {record.seed}"
        if record.weights is not None:
            options += f" --weights {record.weights}"
    if len(model.networks) > 1 and model.provenance.get("presence head") == AS_TRAINED:
        options += " --no-presence"
    recipe = model.provenance.get("recipe", "RECIPE")
    yield "## How to repeat it\n"
    yield "```"
    yield f"python -m training.{command} training/recipes/{recipe}.toml --data DATA --output OUTPUT{options}"
    if len(model.networks) == 1:
        yield "python -m training.export OUTPUT --output MODEL"
    yield "```\n"


def _licence(model: Model) -> str:
    attribution = ", with the attribution above" if "data licence" in model.provenance else ""
    return f"The weights are provided for {model.provenance['licence']}{attribution}.\n"
