import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from longilesion.bundle import save_bundle
from longilesion.config import EncodingSettings, InferenceSettings, ModelSettings, VoiSettings
from longilesion.networks import build_network
from test.unit.builders import dual_encoder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that outlines whatever it looks at."""
    settings = ModelSettings(
        # A click without confidence looks no wider: scans this small cannot be registered.
        voi=VoiSettings(shape_zyx=(8, 8, 8), spacing_zyx_mm=(2.0, 1.0, 1.0), growth_limit=0, unsure_zoom=1.0),
        encoding=EncodingSettings(),
        network=dual_encoder(),
        inference=InferenceSettings(threshold=0.001, presence_threshold=0.0),
    )
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    save_bundle(directory, settings, [build_network(settings)], provenance={"data": "none"})
    return directory


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Puts back what a program's main changes: its streams are closed when the test is over."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {logger: logger.level for logger in (root, logging.getLogger("training"))}
    yield
    root.handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)
    logging.captureWarnings(False)
