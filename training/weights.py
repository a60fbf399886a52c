"""Initial weights of a run: a bundle's, or those of an nnU-Net v2 training."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from longilesion.bundle import is_bundle, load_bundle
from longilesion.config import ModelSettings
from longilesion.errors import InputError
from longilesion.networks.interface import LesionNetwork
from training.nnunet import read_nnunet
from training.pretrained import initialise
from training.widening import widen

_log = logging.getLogger("training")


def load_weights(network: LesionNetwork, path: Path, settings: ModelSettings) -> None:
    """Loads weights of a bundle, of one file of a bundle, or of an nnU-Net into a network built from `settings`.

    Of a bundle, they are those of its first network. Raises InputError or BundleError where they do not fit.
    """
    folder = path if path.is_dir() else path.parent
    if is_bundle(folder):
        manifest, members = load_bundle(folder)
        files = manifest.files
        file = files[0] if folder == path else path.name
        if file not in files:
            raise InputError(f"{path}: not a network of {folder}; expected one of {', '.join(files)}")
        try:
            _take(network, [each for member in members for each in member.networks][files.index(file)])
        except InputError as error:
            raise InputError(f"{path}: weights of another network ({error}); expected those of the recipe's") from error
        _log.info("begun with the weights in %s", folder / file)
        return
    report = initialise(network, read_nnunet(path), settings)
    Console().print(report.table())


def _take(network: LesionNetwork, other: LesionNetwork) -> None:
    """The other's weights as they are, or as the first features of a wider network."""
    values = other.state_dict()
    if {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in values.items()
    }:
        network.load_state_dict(values)
    else:
        widen(network, other)
        _log.info("the network is wider: all other features begin with random values")
