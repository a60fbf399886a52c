"""Trains tiny nnU-Nets with nnU-Net's own trainer, for a few steps: `python -m test.parity.tiny_nnunet FOLDER`.

A program of its own, since nnU-Net takes its folders from the environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from test.unit.nnunet_folders import DATASET, SHAPE, plans_of

STEPS = 3


def train(encoder: str, preprocessed: Path) -> None:
    """Leaves the training's folder as nnU-Net does, and what its network says of an image beside it."""
    plans = plans_of(encoder)
    plans["plans_name"] = encoder
    plans["continue_training"] = False
    (preprocessed / plans["dataset_name"] / "data" / "case.b2nd").touch()
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, DATASET, torch.device("cpu"))
    trainer.initialize()
    image = torch.randn(2, 1, *SHAPE)
    mask = (image > 1).float()
    batch = {"data": image, "target": [mask, mask[..., ::2, ::2]]}
    trainer.logger.log("epoch_start_timestamps", time.time(), 0)
    trainer.on_train_epoch_end([trainer.train_step(batch) for _ in range(STEPS)])
    trainer.network.eval()
    with torch.no_grad():
        trainer.on_validation_epoch_end([trainer.validation_step(batch)])
        features, logits = trainer.network.encoder(image), trainer.network(image)
    trainer._best_ema = trainer.logger.get_value("ema_fg_dice", step=-1)
    base = Path(trainer.output_folder_base)
    trainer.save_checkpoint(trainer.output_folder + "/checkpoint_final.pth")
    (base / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (base / "dataset.json").write_text(json.dumps(DATASET))
    torch.save({"image": image, "features": features, "logits": list(logits)}, base / "said.pt")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    preprocessed = Path(sys.argv[1]) / "preprocessed"
    (preprocessed / plans_of()["dataset_name"] / "data").mkdir(parents=True)
    for encoder in ("plain", "residual"):
        train(encoder, preprocessed)


if __name__ == "__main__":
    main()
