"""The noise layer is told what each epoch has shown, in real trainings that are stopped, resumed and searched."""

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateFinder, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.training.callbacks.noise_layer_updater import COUNTS_KEY

from ..small import QUIET, OwnModule, Validated, loader


class Watch(L.Callback):
    """The layer at the end of each epoch, before it is told of it."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        layer = pl_module.noise_layer
        self.seen.append({name: value.clone() for name, value in layer.state_dict().items()})


def still(noise):
    """A module whose network does not learn, so that every epoch counts the same."""
    torch.manual_seed(0)
    module = Validated(noise)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    return module


def counts_of(module):
    inputs, labels = next(iter(loader(batch_size=64)))
    predicted = module.model(inputs).argmax(dim=1)
    return torch.zeros(3, 3).index_put_((predicted, labels), torch.ones(len(labels)), accumulate=True)


def counts_in(path):
    kept = torch.load(path, weights_only=True)[COUNTS_KEY]
    counts = torch.zeros(3, 3)
    counts[kept["so_far"]["pairs"][:, 0], kept["so_far"]["pairs"][:, 1]] = kept["so_far"]["values"].float()
    return kept, counts


def expect_equal(one, other):
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


def test_the_layer_takes_what_the_last_epoch_has_counted():
    module, watch = still(NoiseConfig(3, warmup_epochs=2)), Watch()
    L.Trainer(max_epochs=3, callbacks=[watch], **QUIET).fit(module, loader())
    counted = NoiseLayer(3)
    counted.update_from_counts(counts_of(module))
    torch.testing.assert_close(watch.seen[0]["weight"], torch.eye(3))
    torch.testing.assert_close(watch.seen[1]["weight"], counted.weight.detach())
    torch.testing.assert_close(watch.seen[1]["label_weights"], counted.label_weights)
    assert [float(seen["progress"][0]) for seen in watch.seen] == [0, 0, 1]


def fit(callbacks=(), ckpt_path=None, **options):
    """Seven epochs of four steps, each validated on labels of which a third are others."""
    torch.manual_seed(0)
    module = Validated(NoiseConfig(3))
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=0.03)
    inputs, labels = loader().dataset.tensors
    noisy = torch.where(torch.arange(64) % 3 == 0, (labels + 1) % 3, labels)
    validation = DataLoader(torch.utils.data.TensorDataset(inputs, noisy), batch_size=64)
    quiet = {**QUIET, "enable_checkpointing": True, **options}
    trainer = L.Trainer(max_epochs=7, callbacks=list(callbacks), **quiet)
    trainer.fit(module, loader(), validation, ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize("step", [4, 8, 20])
def test_a_run_that_goes_on_from_an_epochs_last_step_has_the_same_layer(step, tmp_path):
    """Before and after the layer begins to act; test_resume.py goes on from the middle of epochs."""
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    watch, again = Watch(), Watch()
    whole = fit([keep, watch])
    assert 0 < whole.noise_layer.warmup_epochs < 6 and whole.noise_layer.share == 1
    resumed = fit([again], tmp_path / f"step={step}.ckpt")
    left = 7 - step // 4
    for one, other in zip(watch.seen[-left + 1 :], again.seen[-left + 1 :], strict=True):
        expect_equal(one, other)
    expect_equal(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("at_epoch_end", [True, False])
@pytest.mark.parametrize("epoch", [0, 1, 2, 4])
def test_a_checkpoint_of_an_epoch_holds_its_validation(epoch, at_epoch_end, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_on_train_epoch_end=at_epoch_end, save_top_k=-1)
    whole = fit([keep])
    kept, counts = counts_in(tmp_path / f"epoch={epoch}.ckpt")
    assert kept["epoch"] == epoch and counts.sum() == 64
    expect_equal(whole.state_dict(), fit([], tmp_path / f"epoch={epoch}.ckpt").state_dict())


def test_the_sanity_check_is_no_validation(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    fit([keep], num_sanity_val_steps=2)
    assert counts_in(tmp_path / "step=2.ckpt")[0]["so_far"]["sums"][-1] == 0


def test_a_validation_in_the_middle_of_an_epoch_counts_for_it(tmp_path):
    module = Validated(NoiseConfig(3))
    keep = ModelCheckpoint(tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    options = {**QUIET, "enable_checkpointing": True, "val_check_interval": 2}
    L.Trainer(max_epochs=1, callbacks=[keep], **options).fit(module, loader(), loader(batch_size=64))
    kept, counts = counts_in(tmp_path / "step=2.ckpt")
    assert kept["epoch"] == 0 and counts.sum() == 32 and kept["so_far"]["sums"][-1] == 64
    kept, counts = counts_in(tmp_path / "step=4.ckpt")
    assert counts.sum() == 64 and kept["so_far"]["sums"][-1] == 64, "the last validation alone"


def test_another_fit_counts_anew_and_goes_on_with_the_layer(tmp_path):
    module = still(NoiseConfig(3, warmup_epochs=1))
    L.Trainer(max_epochs=2, **QUIET).fit(module, loader())
    told = int(module.noise_layer.progress[1])
    trainer = L.Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    kept, counts = counts_in(tmp_path / "end.ckpt")
    assert kept["epoch"] == 0 and kept["last"] is None
    assert torch.equal(counts, counts_of(module))
    assert module.noise_layer.progress[1] == told, "of the last epoch it is told when the next begins"


def test_a_search_of_the_learning_rate_leaves_nothing_behind(tmp_path):
    module, watch, alone, plain = still(NoiseConfig(3)), Watch(), still(NoiseConfig(3)), Watch()
    module.lr = 0.0
    find = LearningRateFinder(num_training_steps=8, update_attr=False, early_stop_threshold=None)
    options = {**QUIET, "default_root_dir": tmp_path}
    L.Trainer(max_epochs=4, callbacks=[find, watch], **options).fit(module, loader())
    L.Trainer(max_epochs=4, callbacks=[plain], **options).fit(alone, loader())
    for one, other in zip(watch.seen[-4:], plain.seen, strict=True):
        expect_equal(one, other)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(loader().dataset)


@pytest.mark.parametrize("length", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 13}])
def test_data_of_unknown_length_are_counted_too(length):
    module = still(NoiseConfig(3))
    L.Trainer(**length, **QUIET).fit(module, DataLoader(Stream(), batch_size=16))
    assert module.noise_layer.progress[1] == 3
    torch.testing.assert_close(module.epoch_counts.last.label_counts.float(), counts_of(module))


def test_a_checkpoint_of_the_end_goes_on_as_a_training_that_was_not_stopped(tmp_path):
    module, watch = still(NoiseConfig(3, warmup_epochs=1)), Watch()
    L.Trainer(max_epochs=2, callbacks=[watch], **QUIET).fit(module, loader())
    trainer = L.Trainer(max_epochs=1, **QUIET)
    trainer.fit(still(NoiseConfig(3, warmup_epochs=1)), loader())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed, again = still(NoiseConfig(3, warmup_epochs=1)), Watch()
    trainer = L.Trainer(max_epochs=2, callbacks=[again], **QUIET)
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "end.ckpt")
    expect_equal(watch.seen[-1], again.seen[-1])


def test_an_average_of_the_weights_leaves_alone_what_the_layer_was_told(tmp_path):
    found = []
    for callbacks in ([], [EMAWeightAveraging(decay=0.9)]):
        torch.manual_seed(0)
        module = OwnModule(NoiseConfig(3, warmup_epochs=1))
        keep = ModelCheckpoint(tmp_path / str(len(callbacks)), filename="{epoch}", save_top_k=-1)
        options = {**QUIET, "enable_checkpointing": True}
        L.Trainer(max_epochs=4, callbacks=[*callbacks, keep], **options).fit(module, loader())
        saved = torch.load(tmp_path / str(len(callbacks)) / "epoch=2.ckpt", weights_only=True)["state_dict"]
        names = ("noise_layer.progress", "noise_layer.label_weights")
        found.append([*(saved[name] for name in names), *(module.state_dict()[name] for name in names)])
    for plain, averaged in zip(*found, strict=True):
        assert torch.equal(plain, averaged)
    assert module.noise_layer.progress.tolist() == [1.0, 3.0, 1.0, 0.0]
