"""Exports of models with a PEFT adapter: plain models, in which it is merged."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import ViTForImageClassification

from lightning_noisy.hf import NoisyForImageClassification
from lightning_noisy.hub import export_clean
from tests.hf.small import NAMES, NO_WARMUP, batch, noisy_vit, tiny_vit


def adapted(model):
    chosen = {"r": 2, "lora_alpha": 64, "target_modules": ["v_proj", "o_proj"], "modules_to_save": ["classifier"]}
    config = LoraConfig(init_lora_weights=False, **chosen)
    return get_peft_model(model, config)


def inside():
    return NoisyForImageClassification.from_backbone(adapted(tiny_vit()), noise=NO_WARMUP, id2label=NAMES)


@pytest.mark.parametrize("build", [lambda: adapted(noisy_vit()), inside], ids=["around", "inside"])
def test_an_export_is_merged_and_plain_transformers_loads_it(build, tmp_path):
    model = build().eval()
    pixels, _ = batch()
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits
        unadapted = tiny_vit()(pixel_values=pixels).logits
    folder = export_clean(model, tmp_path / "clean", "apache-2.0")
    plain, info = ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        found = plain.eval()(pixel_values=pixels).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, unadapted, atol=1e-3)
    assert (folder / "noise_layer.safetensors").is_file()


def test_a_checkpoint_of_the_trainer_is_exported_from_its_folder(tmp_path):
    model = inside().eval()
    model.save_pretrained(tmp_path / "checkpoint")
    folder = export_clean(tmp_path / "checkpoint", tmp_path / "clean", "apache-2.0")
    pixels, _ = batch()
    with torch.no_grad():
        found = ViTForImageClassification.from_pretrained(folder).eval()(pixel_values=pixels).logits
        torch.testing.assert_close(found, model(pixel_values=pixels).logits, atol=1e-5, rtol=1e-5)
