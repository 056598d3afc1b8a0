import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_noisy import NoiseConfig, NoiseLayer, NoisyLabelMixin
from lightning_noisy.training.callbacks.guards import ClassCollapseGuard
from lightning_noisy.training.callbacks.noise_layer_updater import NoiseLayerUpdater

from .small import QUIET, OwnModule, loader


def test_a_module_of_ones_own_fits_with_nothing_but_the_two_calls():
    torch.manual_seed(0)
    module = OwnModule(NoiseConfig(3, warmup_epochs=40))
    before = module.noise_layer.weight.clone()
    L.Trainer(max_epochs=80, **QUIET).fit(module, loader())
    inputs, labels = next(iter(loader(batch_size=64)))
    assert (module.model(inputs).argmax(1) == labels).float().mean() > 0.7
    assert not torch.equal(module.noise_layer.weight, before)
    assert "noise_layer.weight" in module.state_dict()


def test_before_the_layer_has_a_share_the_loss_is_plain_cross_entropy():
    module = OwnModule()
    logits, labels = torch.randn(8, 3, requires_grad=True), torch.randint(0, 3, (8,))
    assert module.in_warmup
    loss = module.noisy_loss(logits, labels)
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    loss.backward()
    assert module.noise_layer.weight.grad is None  # it is counted, not learned


def test_a_layer_that_learns_is_in_the_graph_at_any_share():
    module = OwnModule(NoiseConfig(3, init="identity"))
    module.noisy_loss(torch.randn(8, 3), torch.randint(0, 3, (8,))).backward()
    assert torch.equal(module.noise_layer.weight.grad, torch.zeros(3, 3))


def test_after_the_warm_up_the_loss_is_the_layers():
    logits, labels = torch.randn(8, 3), torch.randint(0, 3, (8,))
    config = NoiseConfig(3, warmup_epochs=0, dropout=0.0)
    module = OwnModule(config)
    assert module.noisy_loss(logits, labels).item() == pytest.approx(NoiseLayer(config).loss(logits, labels).item())
    module.noise_layer.update_from_counts(torch.eye(3) * 50 + 5)
    expected = module.noise_layer.posterior_loss(logits, labels)
    assert module.noisy_loss(logits, labels).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("noise", "is_told"), [(True, False), (True, True), (False, False)])
def test_an_image_without_a_label_counts_nothing(noise, is_told, soft):
    config = NoiseConfig(3, warmup_epochs=int(is_told), dropout=0.0) if noise else None
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 2, 0, -1, -1, -1])
    known = labels != -1
    targets = nn.functional.one_hot(labels.clamp_min(0), 3) * known[:, None].float() if soft else labels
    modules = [OwnModule(config), OwnModule(config)]
    if is_told:
        for module in modules:
            module.noise_layer.update_from_counts(torch.eye(3) * 50 + 5)
    whole, part = logits.clone().requires_grad_(), logits[known].clone().requires_grad_()
    modules[0].noisy_loss(whole, targets).backward()
    modules[1].noisy_loss(part, targets[known]).backward()
    assert torch.allclose(whole.grad[known] * 8, part.grad * 5, atol=1e-6)
    assert torch.equal(whole.grad[~known], torch.zeros(3, 3))
    shown = [module.epoch_counts.so_far() for module in modules]
    assert torch.equal(shown[0].label_counts, shown[1].label_counts)
    assert shown[0].clean_loss == pytest.approx(shown[1].clean_loss)


def test_a_batch_without_any_label_is_in_the_graph_with_no_gradient():
    module, logits = OwnModule(NoiseConfig(3, warmup_epochs=0)), torch.randn(4, 3, requires_grad=True)
    loss = module.noisy_loss(logits, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()
    assert module.epoch_counts.so_far().images == 0


def test_the_warm_up_ends_at_its_epoch_in_a_real_fit():
    torch.manual_seed(0)
    module = OwnModule(NoiseConfig(3, warmup_epochs=2, dropout=0.0, init="identity", class_balance=0.0))
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    L.Trainer(max_epochs=4, **QUIET).fit(module, loader(batch_size=64))
    inputs, labels = next(iter(loader(batch_size=64)))
    plain = nn.functional.cross_entropy(module.model(inputs), labels).item()
    through_layer = module.noise_layer.loss(module.model(inputs), labels).item()
    assert abs(plain - through_layer) > 0.01
    assert [loss for _, loss in module.losses] == pytest.approx([plain, plain, through_layer, through_layer], rel=1e-5)


def test_without_a_layer_it_is_plain_cross_entropy():
    module = OwnModule(None)
    logits, labels = torch.randn(8, 3), torch.randint(0, 3, (8,))
    assert module.noisy_loss(logits, labels).item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert [group["name"] for group in module.parameter_groups(lr=0.1)] == ["network"]


def test_the_noise_layer_has_a_group_of_its_own_without_weight_decay():
    module = OwnModule(NoiseConfig(3, init="identity", lr_scale=0.1))
    network, noise = module.parameter_groups(lr=0.5, weight_decay=0.2)
    assert noise["params"] == [module.noise_layer.weight]
    assert (noise["lr"], noise["weight_decay"]) == (pytest.approx(0.05), 0.0)
    assert (network["lr"], network["weight_decay"]) == (0.5, 0.2)
    assert len(network["params"]) == 4
    for still in (NoiseConfig(3, trainable=False), NoiseConfig(3)):
        assert OwnModule(still).noise_parameter_groups(lr=0.1) == []


def test_optimizers_of_the_module_or_its_base_class_are_kept():
    class Base(L.LightningModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.125)

    class Derived(NoisyLabelMixin, Base):
        def __init__(self):
            super().__init__()
            self.attach_noise_layer(3)

    assert Derived().configure_optimizers().param_groups[0]["lr"] == 0.125
    default = OwnModule(NoiseConfig.paper(3)).configure_optimizers()
    assert [group["weight_decay"] for group in default.param_groups] == [0.01, 0.0]


def test_weight_decay_on_the_noise_layer_is_noticed():
    module = OwnModule(NoiseConfig.paper(3))
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match=r"weight decay.*parameter_groups"):
        L.Trainer(max_epochs=2, **QUIET).fit(module, loader())


def test_a_warm_up_as_long_as_the_training_is_noticed():
    with pytest.warns(UserWarning, match=r"never act.*`warmup_epochs` is 5.*after 2 epochs"):
        L.Trainer(max_epochs=2, **QUIET).fit(OwnModule(NoiseConfig(3, warmup_epochs=5)), loader())


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"`noisy_labels` to lie in 0\.\.2.*from 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([0, -2]), r"from -2 to 0"),
        (torch.tensor([[0.0, float("nan"), 0.0]]), torch.tensor([0]), "`clean_logits` to be finite, but got NaN"),
        (torch.tensor([[0.0, float("inf"), 0.0]]), torch.tensor([0]), "at step 0"),
    ],
)
def test_wrong_values_are_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        OwnModule().noisy_loss(logits, labels)


def test_a_forgotten_layer_is_named():
    class Forgetful(NoisyLabelMixin, L.LightningModule):
        def training_step(self, batch, batch_idx):
            raise AssertionError("it must not come so far")

    expected = r"Expected Forgetful to call `self.attach_noise_layer\(num_classes\)` in its `__init__`"
    with pytest.raises(RuntimeError, match=expected):
        Forgetful().noisy_loss(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match=expected):
        L.Trainer(max_epochs=1, **QUIET).fit(Forgetful(), loader())


@pytest.mark.parametrize("calls_super", [False, True])
def test_callbacks_of_ones_own_turn_nothing_off(calls_super):
    class Own(OwnModule):
        def configure_callbacks(self):
            own = [LearningRateMonitor()]
            return [*super().configure_callbacks(), *own] if calls_super else own

    module = Own(NoiseConfig(3))
    trainer = L.Trainer(max_epochs=3, **{**QUIET, "logger": CSVLogger("logs")})
    trainer.fit(module, loader())
    for kind in (LearningRateMonitor, NoiseLayerUpdater, ClassCollapseGuard):
        assert sum(isinstance(callback, kind) for callback in trainer.callbacks) == 1
    assert module.noise_layer.progress[1] == 2


def test_a_subclass_of_a_callback_takes_its_place():
    class Own(ClassCollapseGuard):
        pass

    trainer = L.Trainer(max_epochs=1, callbacks=[Own()], **QUIET)
    trainer.fit(OwnModule(), loader())
    assert [type(c) for c in trainer.callbacks if isinstance(c, ClassCollapseGuard)] == [Own]


def test_the_counts_are_of_predictions_and_labels():
    module = OwnModule()
    logits, labels = torch.eye(3)[[0, 0, 1, 2]] * 5, torch.tensor([0, 1, 1, 2])
    module.noisy_loss(logits, labels)
    module.noisy_loss(logits, nn.functional.one_hot(labels, 3).float())
    expected = torch.tensor([[2.0, 2, 0], [0, 2, 0], [0, 0, 2]])
    assert torch.equal(module.epoch_counts.so_far().label_counts, expected.double())


def test_a_validation_is_told_apart_from_the_training():
    module = OwnModule().eval()
    logits, labels = torch.eye(3)[[0, 0, 1, 2]] * 5, torch.tensor([0, 1, 1, -1])
    module.noisy_loss(logits, labels)
    assert module.epoch_counts.so_far() is None  # of the training nothing
    module.train().noisy_loss(logits, labels)
    assert (module.epoch_counts.so_far().right, module.epoch_counts.so_far().validated) == (2, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_whole_numbers_of_any_type_are_labels(dtype):
    module = OwnModule()
    logits, labels = torch.randn(8, 3), torch.arange(8) % 3
    assert module.noisy_loss(logits, labels.to(dtype)) == module.noisy_loss(logits, labels)
    assert module.epoch_counts.so_far().images == 16


@pytest.mark.parametrize(
    "labels", [torch.zeros(8, 1).long(), torch.zeros(8, 3).long(), torch.zeros(8), torch.ones(7).long()]
)
def test_other_labels_are_one_sentence_before_anything_is_counted(labels):
    module = OwnModule()
    with pytest.raises(
        ValueError, match=r"`noisy_labels` to be integers of shape \(B,\) or .*beside.*\(8, 3\), but got"
    ):
        module.noisy_loss(torch.randn(8, 3), labels)
    assert module.epoch_counts.is_empty


class PlainLoss(OwnModule):
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])


def test_a_layer_that_is_shown_no_label_is_noticed():
    with pytest.warns(UserWarning, match=r"seen no label in epoch 0.*self\.noisy_loss") as caught:
        L.Trainer(max_epochs=1, **QUIET).fit(PlainLoss(), loader())
    assert sum("seen no label" in str(warning.message) for warning in caught) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*seen no label.*")
        L.Trainer(max_epochs=2, **QUIET).fit(OwnModule(), loader())
        L.Trainer(max_epochs=1, **QUIET).fit(PlainLoss(None), loader())


class Around(L.LightningModule):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def training_step(self, batch, batch_idx):
        return self.inner.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_module_around_the_one_with_the_layer_is_an_error_at_the_first_step():
    with pytest.raises(RuntimeError, match="to fit OwnModule, which has the noise layer, but it fits Around around it"):
        L.Trainer(max_epochs=1, **QUIET).fit(Around(OwnModule()), loader())
    inner = OwnModule(None)
    L.Trainer(max_epochs=1, **QUIET).fit(Around(inner), loader())
    assert len(inner.losses) == 4, "without a noise layer there is nothing to tell"
