import re
import warnings

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from lightning_noisy import NoiseConfig, NoisyImageClassifier, NoisyLabelMixin
from lightning_noisy.training.callbacks.guards import ClassCollapseGuard, ReproducibleSteps

from ..small import QUIET, OwnModule, loader


def tiny_vit(**options) -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            num_labels=3,
            **options,
        )
    ).eval()  # as it comes from from_pretrained


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index)), index % 3


class ModesSeen(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.modes = {name: module.training for name, module in pl_module.named_modules()}


def test_dropout_fires_in_a_transformers_backbone_that_came_in_eval_mode(tmp_path):
    tiny_vit(hidden_dropout_prob=0.5).save_pretrained(tmp_path / "vit")
    module = NoisyImageClassifier(f"hf:{tmp_path / 'vit'}", num_classes=3)
    assert not module.backbone.training
    drawn = []
    dropout = next(child for child in module.backbone.modules() if isinstance(child, nn.Dropout) and child.p == 0.5)
    dropout.register_forward_hook(lambda _, inputs, output: drawn.append((inputs[0] != output).float().mean().item()))
    data = torch.utils.data.DataLoader(Images(), batch_size=6)
    L.Trainer(max_epochs=2, **QUIET).fit(module, data, val_dataloaders=data)
    trained = [share for share in drawn if share > 0.4]
    assert len(trained) == 4  # two epochs of two batches; validation is without dropout
    assert all(share == 0 for share in drawn if share not in trained)


def test_what_is_frozen_stays_in_eval_mode_and_its_batch_norm_keeps_its_statistics():
    module = NoisyImageClassifier("timm:resnet10t", num_classes=3, pretrained=False, trainable_blocks=1)
    statistics = module.backbone.layer1[0].bn1.running_mean.clone()
    seen = ModesSeen()
    data = torch.utils.data.DataLoader(Images(), batch_size=6)
    L.Trainer(max_epochs=1, callbacks=[seen], **QUIET).fit(module, data)
    assert not seen.modes["backbone.layer1.0.bn1"]
    assert seen.modes["backbone.layer4.0.bn1"]
    assert seen.modes["noise_layer"]
    assert torch.equal(module.backbone.layer1[0].bn1.running_mean, statistics)


class Collapsing(OwnModule):
    """Never predicts class 2, whatever it is trained on."""

    class_names = ("ant", "bee", "cat")

    def training_step(self, batch, batch_idx):
        inputs, noisy_labels = batch
        logits = self.model(inputs) * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, -50.0])
        return self.noisy_loss(logits, noisy_labels)


def test_a_lost_class_is_named_once_with_the_remedy():
    torch.manual_seed(0)  # a network that predicts the other classes
    module = Collapsing(NoiseConfig(3, warmup_epochs=1))
    with pytest.warns(UserWarning, match=r"does not predict class 'cat'") as caught:
        L.Trainer(max_epochs=6, **QUIET).fit(module, loader())
    assert sum("does not predict" in str(warning.message) for warning in caught) == 1


class Perfect(OwnModule):
    def training_step(self, batch, batch_idx):
        inputs, noisy_labels = batch
        return self.noisy_loss(5 * inputs[:, :3] + 0 * self.model(inputs), noisy_labels)


def test_nothing_is_said_of_a_network_that_predicts_all():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        L.Trainer(max_epochs=3, **QUIET).fit(Perfect(), loader())
    assert not any("does not predict" in str(warning.message) for warning in caught)


def test_a_training_in_which_the_layer_never_acted_ends_with_one_sentence():
    with pytest.warns(UserWarning, match="The noise layer never acted.*plain cross-entropy: ") as caught:
        L.Trainer(max_epochs=3, **QUIET).fit(Collapsing(NoiseConfig(3)), loader())
    said = [str(warning.message) for warning in caught if "never acted" in str(warning.message)]
    assert len(said) == 1 and re.search(
        r"'cat' w.* predicted for less than half", said[0]
    )  # perhaps with another class


def test_a_guard_of_the_users_own_is_kept():
    guard = ClassCollapseGuard(patience=9)
    trainer = L.Trainer(max_epochs=1, callbacks=[guard], **QUIET)
    trainer.fit(OwnModule(), loader())
    assert [callback for callback in trainer.callbacks if isinstance(callback, ClassCollapseGuard)] == [guard]


def test_the_disagreement_of_the_epoch_is_logged():
    module = OwnModule()
    trainer = L.Trainer(max_epochs=2, **QUIET)
    trainer.fit(module, loader())
    shown = module.epoch_counts.latest.label_counts
    rate = 1 - float(shown.trace() / shown.sum())
    assert trainer.callback_metrics["noise/estimated_rate"] == pytest.approx(rate)
    assert trainer.callback_metrics["noise/share"] == module.noise_layer.share
    assert trainer.callback_metrics["noise/trace"] == pytest.approx(
        module.noise_layer.transition_matrix().trace().item()
    )


class Draws(NoisyLabelMixin, L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(4, 3)
        self.attach_noise_layer(3)
        self.draws = []

    def training_step(self, batch, batch_idx):
        self.draws.append(torch.rand(()).item())
        return self.noisy_loss(self.model(batch[0]), batch[1])


def test_each_step_draws_numbers_of_its_own_that_a_seed_repeats():
    runs = []
    for seed in (1, 1, 2):
        L.seed_everything(seed)
        module = Draws()
        L.Trainer(max_epochs=2, **QUIET).fit(module, loader())
        runs.append(module.draws)
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == len(runs[0]) == 8


def test_the_seed_travels_in_the_checkpoint():
    callback = ReproducibleSteps()
    callback.seed = 17
    other = ReproducibleSteps()
    other.load_state_dict(callback.state_dict())
    assert other.seed == 17
