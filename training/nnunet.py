"""Reads an nnU-Net training folder: its plans, and a checkpoint's weights, without unpickling arbitrary objects."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from longilesion.errors import InputError
from longilesion.json_file import read_json

Fold: TypeAlias = int | Literal["all"]
Checkpoint: TypeAlias = Literal["final", "best"]

# nnU-Net's log contains numpy scalars; in numpy 1 their module had another name.
_SCALAR = np.float64().__reduce__()[0]
_HARMLESS: tuple[Any, ...] = (
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NnUnetWeights:
    """A trained nnU-Net: its tensors by name, without duplicates, and its plans for network and images.

    `deviation_hu` is CTNormalization's divisor of Hounsfield units; None for any other normalisation.
    """

    checkpoint: Path
    tensors: Mapping[str, Tensor]
    configuration: str
    network_class: str
    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    blocks_per_stage: tuple[int, ...]
    decoder_convolutions: tuple[int, ...]
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    normalization: str
    deviation_hu: float | None
    labels: tuple[str, ...]


def read_nnunet(
    folder: Path, *, fold: Fold | None = None, configuration: str | None = None, checkpoint: Checkpoint | None = None
) -> NnUnetWeights:
    """Reads nnU-Net's training folder, with plans.json, dataset.json and the folds.

    Defaults are fold_all or else the first numbered fold, the configuration that was trained, and the final checkpoint
    or else the best one. Raises InputError for what is missing, damaged or unsafe.
    """
    names = "plans.json", "dataset.json"
    plans, dataset = (read_json(folder / name, dict[str, Any], expected=f"nnU-Net's {name}") for name in names)
    path = _find_checkpoint(folder, fold, checkpoint)
    state = _load(path)
    tensors = state.get("network_weights")
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"{path}: no network_weights; expected a checkpoint of nnU-Net v2")
    try:
        name = configuration or state["init_args"]["configuration"]
        if name not in plans["configurations"]:
            choices = ", ".join(plans["configurations"]) or "none"
            raise InputError(f"{folder / 'plans.json'}: no configuration {name}; expected one of {choices}")
        return _described(plans, dataset, name, path, tensors)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: {error!r} is amiss; expected plans and a dataset of nnU-Net v2") from error


def _find_checkpoint(folder: Path, fold: Fold | None, checkpoint: Checkpoint | None) -> Path:
    # Numbers by their value; "all" comes before them.
    folds = sorted(folder.glob("fold_*"), key=lambda path: (path.name[5:].isdecimal(), len(path.name), path.name))
    searched = folds if fold is None else [folder / f"fold_{fold}"]
    names = [f"checkpoint_{kind}.pth" for kind in ((checkpoint,) if checkpoint else ("final", "best"))]
    for place in searched:
        for name in names:
            if (place / name).is_file():
                return place / name
    there = ", ".join(str(path.relative_to(folder)) for path in sorted(folder.glob("fold_*/*.pth")))
    where = "any fold" if fold is None else f"fold_{fold}"
    raise InputError(f"{folder}: no {' or '.join(names)} in {where}; found {there or 'none'}")


def _load(path: Path) -> dict[str, Any]:
    """The checkpoint's content; only tensors, plain containers and numpy scalars are constructed."""
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        what = f"its pickle needs {refused[1]}, which is never loaded" if refused else "a damaged pickle"
        raise InputError(f"{path}: {what}; expected tensors and numbers, as nnU-Net saves them") from error
    except (AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: {reason}; expected a checkpoint of nnU-Net v2") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: a {type(state).__name__}; expected a checkpoint of nnU-Net v2")
    return state


def _described(
    plans: dict[str, Any], dataset: dict[str, Any], configuration: str, checkpoint: Path, tensors: dict[str, Tensor]
) -> NnUnetWeights:
    with warnings.catch_warnings():
        # It reads the plans of earlier versions, and prints that each time.
        warnings.simplefilter("ignore")
        planned = PlansManager(plans).get_configuration(configuration)
    if list(plans["transpose_forward"]) != [0, 1, 2]:
        raise InputError(f"{checkpoint}: axes in the order {plans['transpose_forward']}; expected z, y, x")
    network = planned.network_arch_init_kwargs
    blocks = network["n_conv_per_stage" if "n_conv_per_stage" in network else "n_blocks_per_stage"]
    stages = len(network["features_per_stage"])
    # The image's; prompts, such as nnInteractive's, are channels after it.
    normalization = planned.normalization_schemes[0]
    deviation = None
    if normalization == "CTNormalization":
        deviation = float(PlansManager(plans).foreground_intensity_properties_per_channel["0"]["std"])
    return NnUnetWeights(
        checkpoint=checkpoint,
        tensors=_named_once(tensors),
        configuration=configuration,
        network_class=planned.network_arch_class_name.rsplit(".", 1)[-1],
        features_per_stage=tuple(network["features_per_stage"]),
        kernel_sizes=tuple(map(tuple, network["kernel_sizes"])),
        strides=tuple(map(tuple, network["strides"])),
        blocks_per_stage=_repeated(blocks, stages),
        decoder_convolutions=_repeated(network["n_conv_per_stage_decoder"], stages - 1),
        patch_size=tuple(planned.patch_size),
        spacing_mm=tuple(planned.spacing),
        normalization=normalization,
        deviation_hu=deviation,
        labels=tuple(dataset["labels"]),
    )


def _repeated(counts: int | list[int], stages: int) -> tuple[int, ...]:
    return (counts,) * stages if isinstance(counts, int) else tuple(counts)


def _named_once(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes duplicate names of tensors that nnU-Net's modules share, and prefixes of wrappers."""
    named = {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}
    return {
        name: tensor
        for name, tensor in named.items()
        if ".all_modules." not in name and not name.startswith("decoder.encoder.")
    }
