"""What only a GPU can tell of a training by transformers: `pytest -m gpu`."""

import pytest
import torch
from transformers import Trainer

from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyTrainer

from .small import Images, arguments, noisy_vit

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("trainer", [Trainer, NoisyTrainer])
@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}])
def test_it_trains_with_the_layer_in_float32(trainer, precision, tmp_path):
    model = noisy_vit(NoiseConfig())
    training = trainer(model, arguments(tmp_path, use_cpu=False, **precision), train_dataset=Images())
    result = training.train()
    assert result.training_loss < 10
    assert model.noise_layer.weight.device.type == "cuda" and model.noise_layer.weight.dtype == torch.float32
    assert model.noise_layer.progress[1] == 1
