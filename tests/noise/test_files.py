import json

import pytest
import torch

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.noise.files import load_noise_layer, save_noise_layer


@pytest.mark.parametrize("noise_type", ["softmax", "stochastic"])
def test_a_layer_comes_back_to_the_bit(noise_type, tmp_path):
    layer = NoiseLayer(NoiseConfig(4, noise_type=noise_type, warmup_epochs=2, lr_scale=0.3))
    with torch.no_grad():
        layer.weight += torch.randn(4, 4)
    save_noise_layer(layer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"noise_config.json", "noise_layer.safetensors"}
    loaded = load_noise_layer(tmp_path / "noise_config.json", tmp_path / "noise_layer.safetensors")
    assert torch.equal(loaded.weight, layer.weight)
    assert loaded.config == layer.config


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    save_noise_layer(NoiseLayer(4), tmp_path)
    config = json.loads((tmp_path / "noise_config.json").read_text())
    for content in (json.dumps({**config, "num_classes": 5}), "{", json.dumps({**config, "dropout": 2})):
        (tmp_path / "noise_config.json").write_text(content)
        with pytest.raises(ValueError, match="hold no noise layer") as raised:
            load_noise_layer(tmp_path / "noise_config.json", tmp_path / "noise_layer.safetensors")
        assert "\n" not in str(raised.value)
