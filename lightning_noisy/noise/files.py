"""A noise layer as two files beside a model: to look at, and to train on from."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from lightning_noisy.noise.config import NoiseConfig
from lightning_noisy.noise.layer import NoiseLayer

NOISE_CONFIG_FILE = "noise_config.json"
NOISE_WEIGHTS_FILE = "noise_layer.safetensors"


def save_noise_layer(noise_layer: NoiseLayer, directory: str | Path) -> None:
    """Writes ``noise_config.json`` and ``noise_layer.safetensors``."""
    directory = Path(directory)
    config = json.dumps(noise_layer.config.to_dict(), indent=2)
    (directory / NOISE_CONFIG_FILE).write_text(config, encoding="utf-8")
    state = {name: value.detach().cpu().contiguous() for name, value in noise_layer.state_dict().items()}
    save_file(state, directory / NOISE_WEIGHTS_FILE, metadata={"format": "pt"})


def load_noise_layer(config_file: str | Path, weights_file: str | Path) -> NoiseLayer:
    """Reads what :func:`save_noise_layer` wrote.

    Raises:
        ValueError: If a file does not hold a noise layer, or the two do not belong together.
    """
    try:
        config = NoiseConfig.from_dict(json.loads(Path(config_file).read_text(encoding="utf-8")))
        layer = NoiseLayer(config)
        layer.load_state_dict(load_file(weights_file))
    except Exception as error:  # json, safetensors and torch raise kinds of their own
        reason = " ".join(str(error).split())
        raise ValueError(f"{str(config_file)!r} and {str(weights_file)!r} hold no noise layer: {reason}") from error
    return layer
