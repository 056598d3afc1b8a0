"""The noise layer takes what each epoch has counted, in a real training."""

import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning_noisy.training.following import CHECKPOINT_KEY
from torch.utils.data import DataLoader, IterableDataset

from lightning_noisy import NoiseConfig, NoiseLayer

from .test_mixin import QUIET, OwnModule, loader


def still(noise):
    """A module whose network does not learn, so that every epoch counts the same."""
    torch.manual_seed(0)
    module = OwnModule(noise)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    return module


def counts_of(module):
    inputs, labels = next(iter(loader(batch_size=64)))
    predicted = module.model(inputs).argmax(dim=1)
    return torch.zeros(3, 3).index_put_((predicted, labels), torch.ones(len(labels)), accumulate=True)


class Watch(L.Callback):
    """The layer at the end of each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        layer = pl_module.noise_layer
        self.seen.append((layer.weight.detach().clone(), layer.label_weights))


def test_the_layer_is_set_when_the_warm_up_is_over_and_labels_are_weighed_before():
    module, watch = still(NoiseConfig(3, warmup_epochs=2)), Watch()
    L.Trainer(max_epochs=3, callbacks=[watch], **QUIET).fit(module, loader(batch_size=16))
    expected = NoiseLayer(3)
    expected.follow(counts_of(module))
    weights, balances = zip(*watch.seen, strict=True)
    assert torch.equal(weights[0], torch.eye(3)) and torch.equal(weights[1], torch.eye(3))
    torch.testing.assert_close(weights[2], expected.weight.detach())
    assert not torch.allclose(weights[2], torch.eye(3))
    assert balances[0] is None
    torch.testing.assert_close(balances[1], expected.label_weights)


def test_the_automatic_warm_up_is_that_of_the_length_of_the_training():
    module = still(NoiseConfig(3))
    L.Trainer(max_epochs=12, **QUIET).fit(module, loader(batch_size=16))
    assert module.noise_layer.warmup_epochs == 3  # a quarter: 150 steps would be more
    L.Trainer(max_epochs=4, **QUIET).fit(module, loader(batch_size=16))
    assert module.noise_layer.warmup_epochs == 1


class Told(OwnModule):
    """One whose validation logs what it is told, an accuracy and a loss for each epoch."""

    def __init__(self, told, **options):
        super().__init__(NoiseConfig(3, **options))
        self.told = told
        with torch.no_grad():
            self.model[2].weight.mul_(50)  # sure of its answers, which are wrong
        self.configure_optimizers = lambda: torch.optim.SGD(self.parameters(), lr=0.0)

    def validation_step(self, batch, batch_idx):
        accuracy, loss = self.told[self.current_epoch]
        self.log_dict({"val/accuracy_noisy": accuracy, "val/loss_noisy": loss})


RISING = [(0.8 + 0.01 * epoch, 2 - 0.1 * epoch) for epoch in range(12)]


def told(validations, callbacks=(), ckpt_path=None, **options):
    torch.manual_seed(0)
    module = Told(validations, **options)
    quiet = {**QUIET, "enable_checkpointing": True}
    trainer = L.Trainer(max_epochs=12, callbacks=list(callbacks), **quiet)
    trainer.fit(module, loader(batch_size=16), loader(batch_size=64), ckpt_path=ckpt_path)
    return module


def test_the_automatic_warm_up_grows_with_the_noisy_validation(tmp_path):
    """12 epochs of 4 steps: 3 without a validation."""
    assert told(RISING).noise_layer.warmup_epochs == 8
    flat = [*RISING[:5], *[RISING[4]] * 7]
    watch = Watch()
    module = told(flat, [watch])
    assert module.noise_layer.warmup_epochs == 6  # the sixth epoch was no better than the fifth
    weights, _ = zip(*watch.seen, strict=True)
    assert all(torch.equal(weight, torch.eye(3)) for weight in weights[:6])
    expected = NoiseLayer(3)
    expected.follow(counts_of(module))
    torch.testing.assert_close(weights[6], 9 / 6 * expected.weight.detach())
    assert told(RISING, warmup_epochs=2).noise_layer.warmup_epochs == 2


def test_the_sanity_check_does_not_count_as_a_validation():
    class Loud(Told):
        def validation_step(self, batch, batch_idx):
            if self.trainer.sanity_checking:
                self.log_dict({"val/accuracy_noisy": 1.0, "val/loss_noisy": 0.01})
            else:
                super().validation_step(batch, batch_idx)

    module = Loud(RISING)
    L.Trainer(max_epochs=12, **QUIET).fit(module, loader(batch_size=16), loader(batch_size=64))
    assert module.noise_layer.warmup_epochs == 8


@pytest.mark.parametrize("step", [6, 10, 14, 18, 26, 28])
def test_a_run_that_goes_on_has_the_same_warm_up(step, tmp_path):
    """From the middle or the end of epochs before and after the end of the warm-up, which is step 24."""
    flat = [*RISING[:5], *[RISING[4]] * 7]
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    watch, again = Watch(), Watch()
    told(flat, [keep, watch])
    resumed = told(flat, [again], tmp_path / f"step={step}.ckpt")
    assert resumed.noise_layer.warmup_epochs == 6
    assert torch.equal(watch.seen[-1][0], again.seen[-1][0])


@pytest.mark.parametrize("at_epoch_end", [True, False])
@pytest.mark.parametrize("epoch", [1, 2, 4, 5, 6])
def test_a_checkpoint_of_an_epoch_holds_its_validation(epoch, at_epoch_end, tmp_path):
    flat = [*RISING[:5], *[RISING[4]] * 7]
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_on_train_epoch_end=at_epoch_end, save_top_k=-1)
    watch, again = Watch(), Watch()
    told(flat, [keep, watch])
    resumed = told(flat, [again], tmp_path / f"epoch={epoch}.ckpt")
    assert resumed.noise_layer.warmup_epochs == 6
    for (one, _), (other, _) in zip(watch.seen[epoch + 1 :], again.seen[-(11 - epoch) :], strict=True):
        assert torch.equal(one, other)


def test_an_epoch_whose_validation_was_never_seen_ends_the_warm_up(tmp_path):
    """Lightning does not repeat the validation of a checkpoint of an epoch's last step, which was written before it."""
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    told(RISING, [keep])
    assert told(RISING, ckpt_path=tmp_path / "step=12.ckpt").noise_layer.warmup_epochs == 3


def test_a_checkpoint_holds_the_counts_and_another_fit_begins_without_them(tmp_path):
    module = still(NoiseConfig(3, warmup_epochs=1))
    trainer = L.Trainer(max_epochs=2, **QUIET)
    trainer.fit(module, loader(batch_size=16))

    class Save(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / "step.ckpt")

    L.Trainer(max_epochs=1, callbacks=[Save()], **QUIET).fit(module, loader(batch_size=16))
    kept = torch.load(tmp_path / "step.ckpt", weights_only=True)[CHECKPOINT_KEY]
    assert kept["epoch"] == 0 and kept["label_weights"] is None  # nothing of the first fit
    counted = torch.zeros(3, 3)
    counted[kept["counts"]["pairs"][:, 0], kept["counts"]["pairs"][:, 1]] = kept["counts"]["values"]
    assert torch.equal(counted, counts_of(module))


def counts_in(path):
    kept = torch.load(path, weights_only=True)[CHECKPOINT_KEY]
    counts = torch.zeros(3, 3)
    counts[kept["counts"]["pairs"][:, 0], kept["counts"]["pairs"][:, 1]] = kept["counts"]["values"]
    return kept, counts


class Validated(OwnModule):
    """One that looks at the layer's loss in validation too."""

    def validation_step(self, batch, batch_idx):
        inputs, noisy_labels = batch
        self.log("val/loss", self.noisy_loss(self.model(inputs), noisy_labels))


def test_a_checkpoint_of_a_validation_holds_the_counts(tmp_path):
    torch.manual_seed(0)
    module = Validated(NoiseConfig(3, warmup_epochs=1))
    keep = ModelCheckpoint(tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    options = {**QUIET, "enable_checkpointing": True, "val_check_interval": 2}
    L.Trainer(max_epochs=1, callbacks=[keep], **options).fit(module, loader(batch_size=16), loader(batch_size=64))
    kept, counts = counts_in(tmp_path / "step=2.ckpt")
    assert kept["epoch"] == 0 and counts.sum() == 32
    assert counts_in(tmp_path / "step=4.ckpt")[1].sum() == 64


def test_what_is_validated_is_not_counted():
    module = Validated(NoiseConfig(3, warmup_epochs=1))
    L.Trainer(max_epochs=1, **QUIET).fit(module, loader(batch_size=16), loader(batch_size=64))
    assert module._label_counts.sum() == 64
    assert module.noise_layer.label_weights is None


def test_a_search_of_the_learning_rate_leaves_nothing_behind(tmp_path):
    module, watch = still(NoiseConfig(3)), Watch()
    module.lr = 0.0
    find = LearningRateFinder(num_training_steps=8, update_attr=False, early_stop_threshold=None)
    options = {**QUIET, "default_root_dir": tmp_path}
    L.Trainer(max_epochs=12, callbacks=[find, watch], **options).fit(module, loader(batch_size=16))
    assert module.noise_layer.warmup_epochs == 3
    _, balances = zip(*watch.seen[-12:], strict=True)
    assert balances[0] is None and balances[1] is not None


class Stream(IterableDataset):
    def __iter__(self):
        return iter(loader().dataset)


@pytest.mark.parametrize(
    ("length", "expected", "warns"),
    [({"max_epochs": 20}, 2, False), ({"max_epochs": -1, "max_steps": 12}, 1, False), ({"max_epochs": 1}, 1, True)],
)
def test_data_of_unknown_length(length, expected, warns):
    module = still(NoiseConfig(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        L.Trainer(**length, **QUIET).fit(module, DataLoader(Stream(), batch_size=16))
    assert module.noise_layer.warmup_epochs == expected
    assert any("never act" in str(warning.message) for warning in caught) == warns


def test_a_warm_up_that_is_given_counts_also_where_a_run_goes_on(tmp_path):
    torch.manual_seed(0)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    options = {**QUIET, "enable_checkpointing": True}
    L.Trainer(max_epochs=1, callbacks=[keep], **options).fit(still(NoiseConfig(3)), loader(batch_size=16))
    module = still(NoiseConfig(3, warmup_epochs=3))
    L.Trainer(max_epochs=4, **QUIET).fit(module, loader(batch_size=16), ckpt_path=tmp_path / "step=4.ckpt")
    assert module.noise_layer.warmup_epochs == 3


def test_a_checkpoint_of_the_end_goes_on_as_a_training_that_was_not_stopped(tmp_path):
    module, watch = still(NoiseConfig(3, warmup_epochs=1)), Watch()
    L.Trainer(max_epochs=2, callbacks=[watch], **QUIET).fit(module, loader(batch_size=16))
    trainer = L.Trainer(max_epochs=1, **QUIET)
    trainer.fit(still(NoiseConfig(3, warmup_epochs=1)), loader(batch_size=16))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed, again = still(NoiseConfig(3, warmup_epochs=1)), Watch()
    trainer = L.Trainer(max_epochs=2, callbacks=[again], **QUIET)
    trainer.fit(resumed, loader(batch_size=16), ckpt_path=tmp_path / "end.ckpt")
    for one, other in zip(watch.seen[-1], again.seen[-1], strict=True):
        assert torch.equal(one, other)
