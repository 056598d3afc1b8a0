"""Runs CIFAR-10N's JPEG images through a pretrained backbone once; denoise.py trains heads on these features.

    python benchmarks/cifar_features.py --data-dir DIR

DIR holds the npz files that prepare_data.py reads and ``mobilenetv2_035.imagenet.features.safetensors``, a MobileNetV2
of width 0.35 without a head; ``cifar10n_features.safetensors`` is written beside them, or to ``--output``.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from prepare_data import FILES, LABELS
from rich.progress import track
from safetensors.torch import load_file, save_file

WEIGHTS = "mobilenetv2_035.imagenet.features.safetensors"
SIDE = 96
BATCH = 256


def build_backbone(weights: Path) -> torch.nn.Module:
    """(B, 3, H, W) images in [-1, 1] -> (B, 1280)."""
    model = timm.create_model("mobilenetv2_035", num_classes=0, pad_type="same", bn_eps=1e-3)
    model.load_state_dict(load_file(weights))
    return model.eval()


@torch.inference_mode()
def features(model: torch.nn.Module, data: bytes, offset: np.ndarray, title: str) -> torch.Tensor:
    """(N, 1280) float16 of the N images that lie in ``data`` end to end."""
    found = []
    for first in track(range(0, len(offset) - 1, BATCH), title):
        last = min(first + BATCH, len(offset) - 1)
        images = [Image.open(io.BytesIO(data[offset[i] : offset[i + 1]])) for i in range(first, last)]
        pixels = np.stack([np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.BICUBIC)) for image in images])
        found.append(model(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).half())
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the npz files and the weights")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    model = build_backbone(options.data_dir / WEIGHTS)
    tensors = {}
    for split, file in {"train": FILES["cifar10n_train"], "test": FILES["cifar10_test"]}.items():
        with np.load(options.data_dir / file, allow_pickle=False) as arrays:
            tensors[split] = features(model, arrays["jpeg"].tobytes(), arrays["offset"], split)
            for name in LABELS if split == "train" else ("clean",):
                key = name if split == "train" else f"test_{name}"
                tensors[key] = torch.from_numpy(arrays[name].astype(np.int64))
    save_file(tensors, options.output or options.data_dir / "cifar10n_features.safetensors")


if __name__ == "__main__":
    main()
