"""A small training, and images for what remains of it."""

import lightning.pytorch as L
import torch

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule

from ..photos import write_photos


def train(folder, backbone, noise=None, epochs=2, **options):
    write_photos(folder / "photos")
    L.seed_everything(0, verbose=False)
    data = NoisyImageDataModule(
        str(folder / "photos"), image_size=32, batch_size=8, num_workers=0, noise="pair:0.3", val_fraction=0.2
    )
    model = NoisyImageClassifier(
        backbone,
        3,
        ["ant", "bee", "cat"],
        noise={"warmup_epochs": 1} if noise is None else noise or None,
        **{"image_size": 32, "pretrained": False, **options},
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model, data)
    path = folder / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def images(count=2, side=32):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))
