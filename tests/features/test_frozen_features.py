"""A linear probe on features that were computed once, against the same one on images."""

import functools

import lightning.pytorch as L
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.features import frozen_features, read_features
from lightning_noisy.features.frozen_features import FrozenFeatures
from lightning_noisy.models.features import FeatureExtractor
from lightning_noisy.training.checkpoint_io import LastCheckpoint

from ..audit.small import digits, trainer

OPTIONS = {"pretrained": False, "image_size": 32, "trainable_blocks": 0, "noise": None, "lr_scheduler": None}


class Count(L.Callback):
    """How many images the first layer of the network has been given."""

    def on_fit_start(self, trainer, pl_module):
        self.images = 0
        first = next(module for module in pl_module.backbone.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_pre_hook(self.count)

    def count(self, module, inputs):
        self.images += len(inputs[0])


def model(**options):
    L.seed_everything(0, verbose=False)
    return NoisyImageClassifier("timm:test_resnet", 10, **{**OPTIONS, **options})


def plain_digits(**options):
    return digits(image_size=32, augmentation={"no_aug": True}, **options)


def fit(network, data, folder, callbacks=(), epochs=2, **options):
    own = trainer(max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), **options)
    own.fit(network, data)
    return own


def test_it_ends_where_a_training_on_images_ends_and_the_backbone_looks_once(tmp_path):
    slow = functools.partial(torch.optim.SGD, lr=0.05)  # AdamW makes much of small differences
    on_images, on_features, count = model(optimizer=slow), model(optimizer=slow), Count()
    expected = fit(on_images, plain_digits(), tmp_path).callback_metrics
    found = fit(on_features, plain_digits(), tmp_path, [FrozenFeatures(), count]).callback_metrics
    assert count.images == 0
    for name, value in on_images.state_dict().items():
        torch.testing.assert_close(on_features.state_dict()[name], value, atol=2e-3, rtol=2e-2, msg=name)
    for name in ("val/accuracy_noisy", "train/accuracy_noisy"):
        assert float(found[name]) == pytest.approx(float(expected[name]), abs=0.02)
    images = torch.rand(4, 3, 32, 32)
    clean = on_features.clean_model()
    torch.testing.assert_close(on_features.eval()(images), clean(images))


def test_a_checkpoint_is_the_whole_model_and_goes_on_with_the_features_that_are_there(tmp_path, monkeypatch):
    whole, half, rest = model(), model(), model()
    fit(whole, plain_digits(), tmp_path / "whole", [FrozenFeatures()])
    folder = tmp_path / "half"
    keep = LastCheckpoint(dirpath=str(folder))
    fit(half, plain_digits(), folder, [FrozenFeatures(), keep], epochs=1, enable_checkpointing=True)
    loaded = NoisyImageClassifier.load_from_checkpoint(folder / "last.ckpt")
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(loaded.eval()(images), half.eval()(images))
    monkeypatch.setattr("lightning_noisy.features.extract.PartWriter", lambda *_: pytest.fail("it looked again"))
    own = trainer(max_epochs=2, default_root_dir=folder, callbacks=[FrozenFeatures()])
    own.fit(rest, plain_digits(), ckpt_path=folder / "last.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[name], value, msg=name)


@pytest.mark.parametrize(
    ("options", "data", "words"),
    [
        ({"trainable_blocks": 1}, {}, "more than the last layer"),
        ({"trainable_blocks": None}, {}, "more than the last layer"),
        ({"mixup": 0.2}, {}, "images are mixed"),
        ({}, {"augmentation": {"hflip": 0.5}}, "are augmented"),
    ],
)
def test_where_features_would_be_wrong_images_are_looked_at(tmp_path, monkeypatch, options, data, words):
    said = []
    monkeypatch.setattr(frozen_features, "rank_zero_info", said.append)
    count = Count()
    fit(model(**options), digits(image_size=32, **{"augmentation": {"no_aug": True}, **data}), tmp_path,
        [FrozenFeatures(), count], epochs=1, limit_train_batches=2)  # fmt: skip
    assert words in said[0]
    assert count.images >= 128


def test_a_network_whose_last_layer_is_not_the_end_is_left_alone(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(frozen_features, "rank_zero_info", said.append)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 10), nn.Tanh())
    network[1].requires_grad_(False)
    fit(NoisyImageClassifier(network, 10, noise=None), plain_digits(), tmp_path, [FrozenFeatures()], epochs=1,
        limit_train_batches=2)  # fmt: skip
    assert "its last layer alone gives no logits" in said[0]


def test_images_of_one_id_in_two_splits_keep_their_own_features(tmp_path):
    for split, colour in (("train", 40), ("val", 220)):
        for name, shade in (("cats", 0), ("dogs", 30)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (32, 32), (colour, shade, 7 * number)).save(folder / f"{number}.png")
    options = {"val_source": str(tmp_path / "val"), "image_size": 32, "batch_size": 8, "num_workers": 0}
    options["augmentation"] = {"no_aug": True}
    data, as_images = (NoisyImageDataModule(str(tmp_path / "train"), **options) for _ in range(2))
    network = NoisyImageClassifier("timm:test_resnet", 2, **OPTIONS)
    trainer().validate(network, as_images, verbose=False)
    (batch,) = as_images.val_dataloader()
    with torch.no_grad():
        expected = FeatureExtractor(network.backbone.eval())(batch.images)
    fit(network, data, tmp_path, [FrozenFeatures()], epochs=1)
    (found,) = data.val_dataloader()
    torch.testing.assert_close(found.images, expected, atol=2e-3, rtol=1e-2)


def test_features_of_other_weights_are_made_anew(tmp_path):
    fit(model(), plain_digits(), tmp_path, [FrozenFeatures()], epochs=1, limit_train_batches=2)
    before = read_features(tmp_path / "features")
    L.seed_everything(1, verbose=False)
    other = NoisyImageClassifier("timm:test_resnet", 10, **OPTIONS)
    fit(other, plain_digits(), tmp_path, [FrozenFeatures()], epochs=1, limit_train_batches=2)
    after = read_features(tmp_path / "features")
    assert after.info["key"] != before.info["key"]
    assert not torch.allclose(after.values.float(), before.values.float(), atol=1e-2)


def test_a_network_without_a_linear_layer_is_left_alone(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(frozen_features, "rank_zero_info", said.append)
    network = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fit(NoisyImageClassifier(network, 10, noise=None), plain_digits(), tmp_path, [FrozenFeatures()], epochs=1,
        limit_train_batches=2)  # fmt: skip
    assert "the backbone ends in no linear layer" in said[0]
