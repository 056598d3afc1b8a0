"""The noise layer takes what each epoch has counted, in a real training."""

import lightning.pytorch as L
import torch

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.training.following import CHECKPOINT_KEY

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
