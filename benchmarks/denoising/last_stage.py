"""Cells in which the last stage of an EfficientNet-Lite0 is trained, on what the frozen stages under it give, once."""

import io
from collections import OrderedDict
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from auditing.frozen import BACKBONES
from denoising.cells import Cell, matrix_of
from PIL import Image
from prepare_data import FILES, LABELS
from torch import Tensor, nn

BACKBONE = "efficientnet_lite0"
SIDE = 96
IMAGES, TEST_IMAGES = 6000, 2000


def last_stage_cell(labels: str, seed: int, data_dir: Path) -> Cell:
    """CIFAR-10N at 96 px, 6,000 images: the last stage and the head are trained, 8 epochs of batches of 64."""
    model = BACKBONES[BACKBONE](data_dir)
    columns = _columns(data_dir)
    rows = torch.randperm(len(columns["clean"]), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    train = _below_the_last_stage(model, data_dir / FILES["cifar10n_train"], rows)
    test = _below_the_last_stage(model, data_dir / FILES["cifar10_test"], torch.arange(TEST_IMAGES))
    with np.load(data_dir / FILES["cifar10_test"], allow_pickle=False) as arrays:
        test_labels = torch.from_numpy(arrays["clean"][:TEST_IMAGES].astype(np.int64))
    clean, noisy = columns["clean"], columns[labels]
    return Cell(
        train, noisy[rows], clean[rows], test, test_labels, matrix_of(clean, noisy), partial(_last_stage, data_dir),
        epochs=8, batch_size=64,
    )  # fmt: skip


def _last_stage(data_dir: Path) -> nn.Module:
    """From what is below the last stage, as float16, to logits."""
    model = BACKBONES[BACKBONE](data_dir)
    layers = {"stage": model.blocks[-1], "conv": model.conv_head, "norm": model.bn2, "pool": model.global_pool}
    head = nn.Linear(model.num_features, 10)
    return nn.Sequential(OrderedDict(cast=_Float(), **layers, flatten=nn.Flatten(), head=head))


class _Float(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.float()


@cache
def _columns(data_dir: Path) -> dict[str, Tensor]:
    with np.load(data_dir / FILES["cifar10n_train"], allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in LABELS}


@torch.inference_mode()
def _below_the_last_stage(model: nn.Module, file: Path, rows: Tensor) -> Tensor:
    """(N, C, h, w) float16."""
    with np.load(file, allow_pickle=False) as arrays:
        data, offset = arrays["jpeg"].tobytes(), arrays["offset"]
    found = []
    for part in rows.split(250):
        images = [Image.open(io.BytesIO(data[offset[row] : offset[row + 1]])) for row in part.tolist()]
        pixels = np.stack([np.asarray(each.convert("RGB").resize((SIDE, SIDE), Image.BICUBIC)) for each in images])
        stem = model.bn1(model.conv_stem(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1))
        found.append(model.blocks[:-1](stem).half())
    return torch.cat(found).clone()


LAST_STAGE_CELLS = {
    f"cifar10n {labels}, EfficientNet's last stage": partial(last_stage_cell, labels)
    for labels in ("clean", "aggre", "random1", "worse")
}
