"""Batches in the forms in which loaders give them."""

from collections import UserDict, namedtuple

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.data import ImageBatch
from lightning_noisy.training.batches import as_image_batch

from .small import QUIET

Pair = namedtuple("Pair", ["image", "label"])
IMAGES, LABELS = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
FORMS = {
    "tuple": (IMAGES, LABELS),
    "list with more": [IMAGES, LABELS, ["a name"] * 8],
    "named tuple": Pair(IMAGES, LABELS),
    "dict of transformers": {"pixel_values": IMAGES, "labels": LABELS},
    "dict of datasets": {"image": IMAGES, "label": LABELS.int()},
    "BatchFeature": UserDict(pixel_values=IMAGES, labels=LABELS),
    "ours": ImageBatch(IMAGES, LABELS, None, []),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_are_the_same_batch(form):
    batch = as_image_batch(FORMS[form])
    assert torch.equal(batch.images, IMAGES) and torch.equal(batch.noisy_labels, LABELS)
    assert batch.noisy_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (IMAGES, "a float32 tensor of shape (8, 3, 32, 32)"),
        ({"pixel_values": IMAGES}, "a dict of 'pixel_values': a float32 tensor of shape (8, 3, 32, 32)"),
        ({"x": IMAGES, "y": LABELS}, "a dict of 'x': a float32"),
        ((IMAGES.byte(), LABELS), "a tuple of a uint8 tensor"),
        ((IMAGES, LABELS.float()), "a float32 tensor of shape (8,)"),
        ((IMAGES[0], LABELS), "a float32 tensor of shape (3, 32, 32)"),
        ((["photo.jpg"], LABELS), "a tuple of a list of str"),
        ("photo.jpg", "but got str"),
    ],
)
def test_anything_else_is_described(batch, got):
    with pytest.raises(ValueError, match="Expected a batch to be images") as error:
        as_image_batch(batch)
    assert got in str(error.value)


def test_to_predict_no_labels_are_needed():
    batch = as_image_batch({"pixel_values": IMAGES}, needs_labels=False)
    assert batch.noisy_labels.tolist() == [-1] * 8
    assert as_image_batch(IMAGES, needs_labels=False).images is IMAGES


def classifier(**options):
    return NoisyImageClassifier("timm:test_resnet", num_classes=3, pretrained=False, image_size=32, **options)


@pytest.mark.parametrize("form", ["named tuple", "dict of datasets"])
def test_a_loader_of_ones_own_trains_validates_and_predicts(form):
    rows = [
        Pair(image, int(label)) if form == "named tuple" else {"image": image, "label": int(label)}
        for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    loader, module = DataLoader(rows, batch_size=4), classifier()
    trainer = L.Trainer(max_epochs=2, **QUIET)
    trainer.fit(module, loader, loader)
    with torch.no_grad():
        is_right = module.eval()(IMAGES).argmax(dim=1) == LABELS
    assert trainer.callback_metrics["val/accuracy_noisy"] == pytest.approx(is_right.float().mean().item())
    assert module.epoch_counts.last.images == 8
    predicted = trainer.predict(module, loader)
    assert torch.cat([part["noisy_labels"] for part in predicted]).tolist() == LABELS.tolist()


def test_of_several_validation_loaders_each_has_its_own_metrics():
    right = [(image, 0) for image in IMAGES]
    wrong = [(image, 1) for image in IMAGES]
    module, trainer = classifier(), L.Trainer(max_epochs=1, **QUIET)
    with torch.no_grad():
        module.backbone.get_classifier().weight.zero_()
        module.backbone.get_classifier().bias.copy_(torch.tensor([5.0, 0.0, -5.0]))
    loaders = [DataLoader(right, batch_size=4), DataLoader(wrong, batch_size=4)]
    trainer.validate(module, loaders, verbose=False)
    metrics = trainer.callback_metrics
    assert metrics["val/accuracy_noisy"] == 1 and metrics["val/accuracy_noisy/loader_1"] == 0
    assert metrics["val/loss_noisy/loader_1"] - metrics["val/loss_noisy"] == pytest.approx(5, rel=1e-4)
    trainer.fit(module, DataLoader(right, batch_size=4), loaders)
    assert {"val/accuracy_noisy", "val/accuracy_noisy/loader_1"} <= trainer.callback_metrics.keys()
    assert module.epoch_counts.last is None and module.epoch_counts.so_far().validated == 8, "the first loader alone"
