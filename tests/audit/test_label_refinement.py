"""A training on what pretrained features tell of the labels."""

import copy

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.audit import label_refinement
from lightning_noisy.audit.judging.refinement import reason_to_step_aside
from lightning_noisy.audit.label_refinement import LabelRefinement
from lightning_noisy.training.checkpoint_io import LastCheckpoint

from .small import SmallNetwork, digits, trainer, true_labels


@pytest.fixture(scope="module")
def pretrained():
    """A network that has seen clean digits, whose last layer is as at the start."""
    L.seed_everything(0, verbose=False)
    data = digits(noise=None, max_train_images=300)
    network = NoisyImageClassifier(SmallNetwork(), 10, noise=None, optimizer=fast)
    trainer(max_epochs=15).fit(network, data)
    nn.init.zeros_(network.backbone.layers[3].weight)
    return network.backbone


def fast(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


def fit(network, folder, callbacks=(), epochs=6, data=None, **options):
    L.seed_everything(0, verbose=False)
    data = data or digits()
    model = NoisyImageClassifier(copy.deepcopy(network), 10, optimizer=fast, lr_scheduler=None)
    own = trainer(max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), **options)
    own.fit(model, data)
    return own, model, data


def test_soft_labels_are_right_more_often_than_the_given_ones_which_are_counted(pretrained, tmp_path):
    own, model, data = fit(pretrained, tmp_path, [LabelRefinement()], epochs=2)
    images = data._datasets["train"].images
    right = images.soft_labels.argmax(axis=1) == true_labels(images.ids.to_pylist())
    given = images.noisy_labels == true_labels(images.ids.to_pylist())
    assert right.mean() > given.mean() + 0.2
    assert float(own.callback_metrics["noise/estimated_rate"]) > 0.8 * (1 - given.mean())
    counted = model.epoch_counts.latest.label_counts.sum(dim=0)
    assert torch.equal(counted, torch.from_numpy(np.bincount(images.noisy_labels, minlength=10)).double())


@pytest.mark.slow
def test_a_network_that_sees_well_learns_what_is_right_of_wrong_labels(pretrained, tmp_path):
    plain, _, _ = fit(pretrained, tmp_path / "plain", epochs=12)
    refined, _, _ = fit(pretrained, tmp_path / "refined", [LabelRefinement()], epochs=12)
    accuracies = [float(own.callback_metrics["val/accuracy_clean"]) for own in (plain, refined)]
    assert accuracies[1] > accuracies[0] + 0.02


def test_the_loss_is_that_of_the_soft_labels(pretrained, tmp_path):
    losses = {}

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses[batch_idx] = (float(outputs["loss"]), batch)

    fit(pretrained, tmp_path, [LabelRefinement(), Look()], epochs=1, limit_train_batches=1, num_sanity_val_steps=0)
    loss, batch = losses[0]
    assert batch.soft_labels.shape == (64, 10)
    logits = copy.deepcopy(pretrained)(batch.images).double()
    soft = batch.soft_labels.double()
    expected = -(soft * logits.log_softmax(dim=1)).sum(dim=1) + (1 - (soft * logits.softmax(dim=1)).sum(dim=1)).log()
    expected = expected.mean()
    assert loss == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(batch.soft_labels.sum(dim=1), torch.ones(64), atol=5e-3, rtol=0)


def test_a_resumed_fit_trains_on_the_same_soft_labels(pretrained, tmp_path, monkeypatch):
    _, whole, _ = fit(pretrained, tmp_path / "whole", [LabelRefinement()], epochs=2)
    folder = tmp_path / "half"
    keep = LastCheckpoint(dirpath=str(folder))
    fit(pretrained, folder, [LabelRefinement(), keep], epochs=1, enable_checkpointing=True)
    monkeypatch.setattr(label_refinement, "refine", lambda *_: pytest.fail("it judged again"))
    L.seed_everything(0, verbose=False)
    rest = NoisyImageClassifier(copy.deepcopy(pretrained), 10, optimizer=fast, lr_scheduler=None)
    own = trainer(max_epochs=2, default_root_dir=folder, callbacks=[LabelRefinement()])
    own.fit(rest, digits(), ckpt_path=folder / "last.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[name], value, msg=name)


def test_other_labels_are_judged_anew(pretrained, tmp_path):
    short = {"epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    fit(pretrained, tmp_path, [LabelRefinement()], **short)
    _, _, data = fit(pretrained, tmp_path, [LabelRefinement()], data=digits(noise="uniform:0.2"), **short)
    images = data._datasets["train"].images
    assert (images.soft_labels.argmax(axis=1) == images.noisy_labels).mean() == pytest.approx(0.8, abs=0.04)


def blurred(values):
    """A network that sees but so many numbers of an image."""
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(values), nn.Linear(values, 10))


@pytest.mark.parametrize(
    ("network", "data", "words"),
    [
        (blurred(4), {"noise": "uniform:0.97"}, "hardly more than"),
        (blurred(2), {"noise": None}, "can't tell from images that are too hard"),
        (blurred(3), {"noise": None}, "hardly more than"),
        (None, {"max_train_images": 40}, "fewer than the 5 folds"),
    ],
)
def test_where_features_tell_nothing_the_given_labels_are_trained_on(pretrained, network, data, words, tmp_path):
    short = {"epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    with pytest.warns(UserWarning, match=f"The given labels are trained on as they are: .*{words}"):
        _, _, datamodule = fit(network or pretrained, tmp_path, [LabelRefinement()], data=digits(**data), **short)
    assert datamodule._datasets["train"].images.soft_labels is None


@pytest.mark.parametrize(("sure", "is_believed"), [(0.55, False), (0.65, True)])
def test_a_probe_that_is_not_sure_is_not_believed(sure, is_believed):
    labels = torch.arange(400) % 10
    probabilities = torch.full((400, 10), (1 - sure) / 9).scatter(1, labels[:, None], sure)
    caution = reason_to_step_aside(probabilities.log(), 0.2, labels, torch.bincount(labels))
    assert (caution == "") == is_believed
    assert is_believed or "55% sure of its class on average" in caution


def test_mixup_mixes_soft_and_noisy_labels_alike(pretrained):
    model = NoisyImageClassifier(copy.deepcopy(pretrained), 10, mixup=0.4, label_smoothing=0.1)
    images, labels = torch.rand(8, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 5, 6, -1])
    soft = nn.functional.one_hot(labels.clamp(min=0), 10).float()
    _, noisy, mixed = model.mix(images, labels, None, soft)
    torch.testing.assert_close(mixed, noisy)
    assert not noisy.round().eq(noisy).all()


def test_a_module_of_ones_own_is_told_what_to_do(tmp_path):
    own = trainer(max_epochs=1, callbacks=[LabelRefinement()])
    with pytest.raises(ValueError, match=r"Expected LabelRefinement with NoisyImageClassifier .* audit --backbone"):
        own.fit(BoringModel())
