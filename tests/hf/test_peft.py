"""PEFT adapters with the transformers Trainer: around the noisy model, and inside it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForImageClassification,
    TimmWrapperConfig,
    Trainer,
    ViTForImageClassification,
    set_seed,
)

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.hf import NoisyForImageClassification, NoisyTrainer
from lightning_noisy.hf.wrapping import noisy_model_inside

from .small import NAMES, Images, arguments, batch, noisy_vit, tiny_vit

WAITS_ONE_EPOCH = NoiseConfig(warmup_epochs=1, num_classes=3)


def lora(**options):
    chosen = {"r": 4, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"], **options}
    return LoraConfig(**chosen)


def around(noise=WAITS_ONE_EPOCH):
    set_seed(0)
    return get_peft_model(noisy_vit(noise), lora())


def inside(noise=WAITS_ONE_EPOCH):
    set_seed(0)
    return NoisyForImageClassification.from_backbone(get_peft_model(tiny_vit(), lora()), noise=noise, id2label=NAMES)


def around_convolutions():
    """With batch norms, whose statistics no adapter's file would hold."""
    set_seed(0)
    native = AutoModelForImageClassification.from_config(
        TimmWrapperConfig(architecture="test_resnet", num_labels=3, model_args={"in_chans": 3})
    )
    noisy = NoisyForImageClassification.from_backbone(native, WAITS_ONE_EPOCH, id2label=NAMES)
    return get_peft_model(noisy, lora(target_modules=["conv2"], modules_to_save=["fc"]))


def logits_of(model, pixels):
    with torch.no_grad():
        return model.eval()(pixel_values=pixels).logits


@pytest.mark.parametrize("trainer_class", [Trainer, NoisyTrainer])
@pytest.mark.parametrize("build", [around, inside, around_convolutions])
def test_an_interruption_changes_nothing(build, trainer_class, tmp_path):
    ends, losses = [], []
    for resume in (None, tmp_path / "checkpoint-9"):
        model = build()
        options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 9, "logging_steps": 1}
        trainer = trainer_class(model, arguments(tmp_path, **options), train_dataset=Images())
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        noisy = noisy_model_inside(model)
        assert noisy.label_counts.sum() == 24
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(noisy.noise_layer.weight, noisy_model_inside(build()).noise_layer.weight)


@pytest.mark.parametrize("build", [around, inside])
def test_the_head_and_the_adapter_are_trained_alone(build, tmp_path):
    model = build()
    before = {name: value.clone() for name, value in model.named_parameters()}
    Trainer(model, arguments(tmp_path), train_dataset=Images()).train()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert any("classifier.modules_to_save" in name for name in changed)
    assert any("lora_B" in name for name in changed)
    assert all("lora_" in name or "modules_to_save" in name or "noise_layer" in name for name in changed)


def test_a_layer_that_learns_by_gradients_is_not_frozen(tmp_path):
    model = around(NoiseConfig(num_classes=3, warmup_epochs=0, init="identity"))
    before = noisy_model_inside(model).noise_layer.weight.detach().clone()
    trainer = NoisyTrainer(model, arguments(tmp_path), train_dataset=Images())
    trainer.train()
    assert len(trainer.optimizer.param_groups[-1]["params"]) == 1
    assert not torch.equal(before, noisy_model_inside(model).noise_layer.weight)


def test_the_adapter_inside_comes_back_from_a_folder_and_comes_off_merged(tmp_path):
    model = inside()
    Trainer(model, arguments(tmp_path), train_dataset=Images()).train()
    model.save_pretrained(tmp_path / "saved")
    loaded = NoisyForImageClassification.from_pretrained(tmp_path / "saved")
    pixels, _ = batch()
    expected = logits_of(model, pixels)
    assert torch.equal(logits_of(loaded, pixels), expected)
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    loaded.strip().save_pretrained(tmp_path / "plain")
    plain = ViTForImageClassification.from_pretrained(tmp_path / "plain")
    assert plain.state_dict().keys() == tiny_vit().state_dict().keys()
    torch.testing.assert_close(logits_of(plain, pixels), expected, atol=1e-5, rtol=1e-5)
    assert any("lora_A" in name for name in loaded.strip(merge=False).state_dict())


def test_a_frozen_new_head_is_noticed(tmp_path, caplog):
    from transformers.utils import logging

    logging.enable_propagation()
    model = get_peft_model(noisy_vit(), LoraConfig(r=2, target_modules=["q_proj"]))
    Trainer(model, arguments(tmp_path), train_dataset=Images())
    logging.disable_propagation()
    assert "modules_to_save=['classifier']" in caplog.text


class Hidden(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.native, self.layer = tiny_vit(), NoiseLayer(WAITS_ONE_EPOCH)

    def forward(self, pixel_values, labels):
        return {"loss": self.layer.loss(self.native(pixel_values).logits, labels)}


def test_a_layer_that_nobody_tells_the_epoch_is_an_error_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="noise layer 'layer' of Hidden"):
        Trainer(Hidden(), arguments(tmp_path), train_dataset=Images()).train()


def test_the_noise_layer_is_no_module_to_save(tmp_path):
    model = get_peft_model(noisy_vit(), lora(modules_to_save=["classifier", "noise_layer"]))
    with pytest.raises(ValueError, match="leave out the noise layer"):
        Trainer(model, arguments(tmp_path), train_dataset=Images())


@pytest.mark.parametrize("build", [around, inside])
def test_checkpoints_that_keep_gradients_from_the_adapter_are_refused(build, tmp_path):
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match="`use_reentrant` of the checkpointing arguments to be False"):
        Trainer(build(), arguments(tmp_path, **options), train_dataset=Images())
    model = build()
    before = {name: value.clone() for name, value in model.named_parameters() if "lora_B" in name}
    Trainer(model, arguments(tmp_path, gradient_checkpointing=True), train_dataset=Images()).train()
    after = dict(model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())


def test_an_adapter_inside_another_wrapper_is_found(tmp_path):
    model = around(NoiseConfig.paper(3))
    before = noisy_model_inside(model).noise_layer.weight.detach().clone()
    args = arguments(tmp_path, remove_unused_columns=False, save_strategy="epoch")
    Trainer(torch.compile(model, backend="eager"), args, train_dataset=Images()).train()
    assert not torch.equal(noisy_model_inside(model).noise_layer.weight, before)
    assert (tmp_path / "checkpoint-12" / "noise_layer.safetensors").is_file()
