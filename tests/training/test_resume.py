"""A run that was interrupted ends with the weights of one that was not, bit for bit on a CPU."""

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule

from .small import QUIET

EPOCHS = 4
BATCHES = 3


def build(photos, workers=0, warmup_epochs=2, **options):
    L.seed_everything(3)
    data = NoisyImageDataModule(
        str(photos), image_size=16, batch_size=12, num_workers=workers, val_fraction=0.1, augmentation={"hflip": 0.5}
    )
    options = {"trainable_blocks": None, "mixup": 0.3, **options}
    module = NoisyImageClassifier(
        "timm:test_vit",
        num_classes=3,
        pretrained=False,
        image_size=16,
        noise={"warmup_epochs": warmup_epochs, "dropout": 0.3},
        backbone_kwargs={"drop_rate": 0.2, "drop_path_rate": 0.2, "patch_size": 4},
        **options,
    )
    return module, data


def train(module, data, tmp_path, callbacks=(), **options):
    quiet = {**QUIET, "enable_checkpointing": True}
    trainer = L.Trainer(max_epochs=EPOCHS, default_root_dir=tmp_path, callbacks=list(callbacks), **quiet, **options)
    return trainer


VARIANTS = {
    "plain": {},
    "frozen, layer-wise decay": {"trainable_blocks": 2, "layer_decay": 0.7},
    "workers": {"workers": 2},
    "automatic warm-up": {"warmup_epochs": "auto"},
}


CASES = [*(("plain", step) for step in (2, 3, 7, 9, 11)), *((name, step) for name in VARIANTS for step in (2, 7))]
CASES += [("automatic warm-up", 5)]


@pytest.mark.parametrize(("variant", "step"), sorted(set(CASES)))
def test_resume_is_bit_for_bit(photos, tmp_path, variant, step):
    """Steps 2 and 3 lie in the warm-up (3 is an epoch's end), 7 in the middle, 9 at an epoch's end, 11 near the end."""
    options = VARIANTS[variant]
    keep = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    module, data = build(photos, **options)
    trainer = train(module, data, tmp_path, [keep])
    trainer.fit(module, data)
    assert trainer.global_step == EPOCHS * BATCHES

    resumed, data = build(photos, **options)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    trainer = train(resumed, data, tmp_path)
    trainer.fit(resumed, data, ckpt_path=tmp_path / "kept" / f"step={step}.ckpt", weights_only=True)
    assert trainer.global_step == EPOCHS * BATCHES
    expected = module.state_dict()
    for name, value in resumed.state_dict().items():
        if not name.startswith("accuracies"):
            assert torch.equal(value, expected[name]), name
    assert resumed.noise_layer.progress[1] == EPOCHS - 1
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert [name for name, parameter in resumed.named_parameters() if parameter.requires_grad] == trained


def test_resume_keeps_the_average_of_the_weights(photos, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    states = []
    for checkpoint in (None, tmp_path / "kept" / "step=7.ckpt"):
        module, data = build(photos)
        callbacks = [EMAWeightAveraging(decay=0.7), *([keep] if checkpoint is None else [])]
        train(module, data, tmp_path, callbacks).fit(module, data, ckpt_path=checkpoint, weights_only=True)
        states.append({name: value for name, value in module.state_dict().items() if not name.startswith("accuracies")})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_accumulation_and_clipping_resume_at_a_step(photos, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    states = []
    for checkpoint in (None, tmp_path / "kept" / "step=5.ckpt"):
        module, data = build(photos)
        callbacks = [keep] if checkpoint is None else []
        trainer = train(module, data, tmp_path, callbacks, accumulate_grad_batches=2, gradient_clip_val=0.5)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] if "accuracies" not in name)
