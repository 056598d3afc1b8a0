"""PEFT adapters in Lightning: built from options, or brought along."""

import importlib.util

import lightning.pytorch as L
import pytest
import timm
import torch
from peft import LoraConfig, get_peft_model

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from tests.hf.small import tiny_vit

from .small import QUIET

TIMM = {"pretrained": False, "image_size": 32, "backbone_kwargs": {"patch_size": 8}}


def classifier(backbone="timm:test_vit", adapter=None, **options):
    L.seed_everything(3)
    options = {**TIMM, **options} if isinstance(backbone, str) else options
    noise = {"warmup_epochs": 1}
    return NoisyImageClassifier(backbone, num_classes=3, adapter=adapter, noise=noise, **options)


def fit(module, photos, tmp_path, epochs=3, ckpt_path=None):
    L.seed_everything(3)
    data = NoisyImageDataModule(str(photos), image_size=32, batch_size=12, num_workers=0, val_fraction=0.1)
    trainer = L.Trainer(max_epochs=epochs, default_root_dir=tmp_path, **{**QUIET, "enable_checkpointing": True})
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(tmp_path / f"after_{epochs}.ckpt")
    return tmp_path / f"after_{epochs}.ckpt"


def test_lora_from_options_trains_the_adapter_and_the_head():
    module = classifier(adapter={"r": 2}, layer_decay=0.7)
    trained = {name for name, parameter in module.backbone.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "head.modules_to_save" in name for name in trained)
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        assert f"blocks.0.{layer}.lora_A.default.weight" in trained
    assert module.backbone.get_submodule("blocks.0.attn.qkv.lora_A.default").weight.shape[0] == 2


def test_transformers_models_are_adapted_in_their_attention():
    module = classifier(tiny_vit(), adapter={"r": 2})
    trained = {name for name, parameter in module.backbone.named_parameters() if parameter.requires_grad}
    assert any("q_proj.lora_A" in name for name in trained)
    assert "classifier.modules_to_save.default.weight" in trained


def brought_along():
    timm_model = timm.create_model("test_vit", num_classes=3, img_size=32)
    return get_peft_model(timm_model, LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"]))


@pytest.mark.parametrize("how", ["options", "timm", "transformers"])
def test_a_checkpoint_loads_from_the_file_alone_and_merges(how, photos, tmp_path):
    hf_lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"])
    module = {
        "options": lambda: classifier(adapter={"r": 2}),
        "timm": lambda: classifier(brought_along()),
        "transformers": lambda: classifier(get_peft_model(tiny_vit(), hf_lora)),
    }[how]()
    path = fit(module, photos, tmp_path, epochs=2)
    loaded = NoisyImageClassifier.load_from_checkpoint(path).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = module.eval()(images)
        assert torch.equal(loaded(images), expected)
        plain = loaded.clean_model()
        output = plain(images)
    torch.testing.assert_close(getattr(output, "logits", output), expected, atol=1e-5, rtol=1e-5)
    reference = tiny_vit() if how == "transformers" else timm.create_model("test_vit", num_classes=3)
    assert plain.state_dict().keys() == reference.state_dict().keys()
    assert any("lora_A" in name for name in loaded.clean_model(merge=False).state_dict())


def test_a_resumed_training_ends_with_the_same_weights(photos, tmp_path):
    whole = classifier(adapter={"r": 2}, lr_scheduler=None)
    fit(whole, photos, tmp_path / "whole")
    middle = fit(classifier(adapter={"r": 2}, lr_scheduler=None), photos, tmp_path / "part", epochs=2)
    resumed = classifier(adapter={"r": 2}, lr_scheduler=None)
    fit(resumed, photos, tmp_path / "part", ckpt_path=middle)
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="`trainable_blocks` to be None with an adapter"):
        classifier(adapter={"r": 2}, trainable_blocks=0)
    with pytest.raises(ValueError, match="has an adapter already"):
        classifier(brought_along(), adapter={"r": 2})
    with pytest.raises(ValueError, match="Argument `adapter` does not fit"):
        classifier(adapter={"rank": 2})
    with pytest.raises(ValueError, match="PeftModel around a model with 4 classes"):
        NoisyImageClassifier(brought_along(), num_classes=4)
    with pytest.raises(ValueError, match="no linear layers but its head"):
        classifier("timm:test_resnet", adapter={"r": 2}, backbone_kwargs=None)


def test_without_peft_one_sentence_says_what_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find_spec(name))
    with pytest.raises(ValueError, match=r"pip install 'lightning-noisy\[peft\]'"):
        classifier(adapter={"r": 2})
