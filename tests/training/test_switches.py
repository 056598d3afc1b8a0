"""Lightning's own switches: each trains as it says, and the noise layer is told what it needs."""

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
)
from torch.utils.data import DataLoader, TensorDataset

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule

from .small import QUIET, Validated

EPOCHS = 3


class Own(Validated):
    """A module of one's own, with a validation and what the finders of Lightning look for."""

    def __init__(self):
        super().__init__(3)
        self.lr, self.batch_size = 1e-3, 16

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        inputs, labels = batch
        self.log("val/accuracy_noisy", (self.model(inputs).argmax(dim=1) == labels).float().mean())

    def train_dataloader(self):
        return loader(self.batch_size)

    def val_dataloader(self):
        return loader(16)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameter_groups(self.lr))


def loader(batch_size):
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), batch_size=batch_size, shuffle=True)


@pytest.fixture(scope="module")
def photos_of_digits(tmp_path_factory):
    return lambda: NoisyImageDataModule("digits", image_size=32, batch_size=256, num_workers=0)


def build(kind, photos_of_digits):
    torch.manual_seed(0)
    if kind == "mixin":
        return Own(), {}
    module = NoisyImageClassifier("timm:test_resnet", num_classes=10, pretrained=False, image_size=32)
    return module, {"datamodule": photos_of_digits()}


SWITCHES = {
    "overfit_batches": lambda folder: {"overfit_batches": 2},
    "limit_train_batches": lambda folder: {"limit_train_batches": 2},
    "limit_val_batches=0": lambda folder: {"limit_val_batches": 0},
    "num_sanity_val_steps": lambda folder: {"num_sanity_val_steps": -1},
    "reload_dataloaders": lambda folder: {"reload_dataloaders_every_n_epochs": 1},
    "accumulate_grad_batches": lambda folder: {"accumulate_grad_batches": 2},
    "GradientAccumulationScheduler": lambda folder: {"callbacks": [GradientAccumulationScheduler({0: 1, 2: 2})]},
    "EarlyStopping": lambda folder: {"callbacks": [EarlyStopping("val/accuracy_noisy", mode="max", patience=9)]},
    "best checkpoint": lambda folder: {
        "callbacks": [ModelCheckpoint(folder, monitor="val/accuracy_noisy", mode="max")],
        "enable_checkpointing": True,
    },
    "inference_mode": lambda folder: {"inference_mode": False},
    "check_val_every_n_epoch": lambda folder: {"check_val_every_n_epoch": 2},
    "val_check_interval": lambda folder: {"val_check_interval": 0.5},
    "max_time": lambda folder: {"max_time": {"minutes": 5}},
    "detect_anomaly": lambda folder: {"detect_anomaly": True},
    "gradient_clip_val": lambda folder: {"gradient_clip_val": 1.0},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["classifier", "mixin"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_leaves_nothing_untold(switch, kind, photos_of_digits, tmp_path):
    module, data = build(kind, photos_of_digits)
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer = L.Trainer(**{**QUIET, "max_epochs": EPOCHS, **SWITCHES[switch](tmp_path)})
    trainer.fit(module, **data)
    assert trainer.current_epoch == EPOCHS
    assert module.noise_layer.progress[1] == EPOCHS - 1, "it is told of the last epoch when another one begins"
    shown = module.epoch_counts.so_far()
    assert shown.images == images_of_an_epoch(trainer, kind)
    assert (shown.validated > 0) == (switch not in ("limit_val_batches=0", "check_val_every_n_epoch"))
    assert any(not torch.equal(before[name], value) for name, value in module.named_parameters())


def images_of_an_epoch(trainer, kind):
    size = 16 if kind == "mixin" else 256
    total = len(trainer.train_dataloader.dataset)
    return min(total, trainer.num_training_batches * size)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_overfitting_sees_the_same_images_in_each_epoch(photos_of_digits):
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(tuple(batch.ids))

    module, data = build("classifier", photos_of_digits)
    L.Trainer(**QUIET, max_epochs=2, overfit_batches=2, callbacks=[Watch()]).fit(module, **data)
    assert len(seen) == 4 and seen[:2] == seen[2:] and seen[0] != seen[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "finder", [LearningRateFinder(num_training_steps=5), BatchSizeFinder(max_trials=2, steps_per_trial=2)]
)
def test_the_finders_leave_the_layer_as_it_was(finder, tmp_path):
    module = Own()
    L.Trainer(**QUIET, max_epochs=EPOCHS, callbacks=[finder], default_root_dir=tmp_path).fit(module)
    assert module.noise_layer.progress[1] == EPOCHS - 1
    assert module.epoch_counts.so_far().images == 64


def test_a_cosine_without_an_end_is_one_sentence(photos_of_digits):
    module, data = build("classifier", photos_of_digits)
    trainer = L.Trainer(**QUIET, max_epochs=-1, max_time={"minutes": 5})
    with pytest.raises(ValueError, match=r"cosine.*must know how long the training is"):
        trainer.fit(module, **data)
