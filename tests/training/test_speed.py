"""What makes a training fast must change neither its weights nor its files."""

from contextlib import nullcontext
from functools import partialmethod

import lightning.pytorch as L
import pytest
import timm
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.cli.lightning_cli import main
from lightning_noisy.hub import export_clean
from lightning_noisy.image_batch import ImageBatch
from lightning_noisy.training.masked_mean import MaskedMean

from .small import fit, tiny, tiny_data

FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)


class CopiesFromTheHost(TorchFunctionMode):
    """Notes what copies numbers from the host to another device: the host waits until they are there."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        on_host = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu"]
        if isinstance(result, torch.Tensor) and result.device.type == "meta" and (func in FROM_NUMBERS or on_host):
            self.found.append(func)
        return result


@pytest.mark.parametrize(
    "options", [{}, {"noise": None}, {"noise": {"warmup_epochs": 0}}, {"label_smoothing": 0.1, "mixup": 1.0}]
)
def test_no_step_waits_for_an_accelerator(options, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # knows no meta device
    module = tiny(**options)
    if module.noise_layer is not None:
        assert not module.noise_layer.takes_posterior  # asked for once, which an accelerator is waited for
    module = module.to("meta")
    module._losses_computed = 1  # at every 50th it does, to look for NaN
    labels = torch.zeros(4, dtype=torch.long, device="meta")
    batch = ImageBatch(torch.zeros(4, 3, 16, 16, device="meta"), labels, labels, ["a", "b", "c", "d"])
    with CopiesFromTheHost() as copies:  # and nothing can be read from a tensor without data
        module.training_step(batch, 0).backward()
        module.training_step(batch, 1).backward()
        module.validation_step(batch, 0)
    assert copies.found == []


def test_the_mean_of_the_known():
    metric = MaskedMean()
    metric.update(torch.tensor([1.0, 2.0, float("nan")]), torch.tensor([0, 3, -1]))
    metric.update(torch.tensor([True, False]), torch.tensor([-1, 1]))
    assert metric.compute() == 1.0


class ShownLosses(TQDMProgressBar):
    def __init__(self):
        super().__init__()
        self.shown = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.shown.append(self.get_metrics(trainer, pl_module).get("train/loss"))


def test_the_loss_is_in_the_progress_bar(photos, tmp_path):
    progress_bar = ShownLosses()
    trainer = fit(tiny(), tiny_data(photos), tmp_path, enable_progress_bar=True, callbacks=[progress_bar])
    assert isinstance(progress_bar.shown[-1], float)
    assert len(set(progress_bar.shown)) > 3
    assert trainer.progress_bar_metrics["train/loss"] == trainer.callback_metrics["train/loss"].item()


class LayoutInside(Callback):
    """Whether the first layer's output is channels-last in every step."""

    def on_fit_start(self, trainer, pl_module):
        self.seen = set()
        pl_module.backbone.conv1.register_forward_hook(
            lambda module, inputs, output: self.seen.add(output.is_contiguous(memory_format=torch.channels_last))
        )


def test_channels_last_gives_the_same_weights_in_the_same_layout(photos, tmp_path):
    states = []
    for channels_last in (False, True):
        L.seed_everything(0)
        sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, "momentum": 0.9}}
        options = {"optimizer": sgd, "pretrained": False, "image_size": 16, "channels_last": channels_last}
        module, layout = NoisyImageClassifier("timm:resnet10t", 3, **options), LayoutInside()
        fit(module, tiny_data(photos), tmp_path, max_epochs=2, callbacks=[layout])
        assert layout.seen == {channels_last}
        states.append(module.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)
        assert states[1][name].is_contiguous()


FAST = ["--model.compile=true", "--model.channels_last=true", "--model.optimizer=AdamW", "--model.optimizer.fused=true"]
FAST += ["--trainer.precision=bf16-mixed", "--model.optimizer.lr=0.001"]


@pytest.mark.slow
def test_all_that_is_fast_at_once_goes_on_and_is_exported(photos, tmp_path, monkeypatch):
    # Traced and split as ever, but without the minute that a C++ compiler takes for the kernels.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    words = ["fit", f"--data.source={photos}", "--model.backbone=timm:test_vit", "--model.pretrained=false"]
    words += ["--model.image_size=16", "--model.backbone_kwargs={patch_size: 4}", "--data.batch_size=9"]
    words += ["--data.num_workers=0", "--trainer.logger=false", "--trainer.callbacks=EMAWeightAveraging"]
    words += ["--trainer.callbacks+=lightning_noisy.training.checkpoint_io.LastCheckpoint"]
    words += [f"--trainer.callbacks.dirpath={tmp_path / 'kept'}", "--model.noise.warmup_epochs=1", *FAST]
    cli = main([*words, "--trainer.max_epochs=2"])
    assert cli.model.backbone._compiled_call_impl is not None
    assert cli.trainer.optimizers[0].defaults["fused"]
    last = tmp_path / "kept" / "last.ckpt"
    kept = torch.load(last, weights_only=True)["state_dict"]
    plain = tiny().state_dict()
    assert kept.keys() == plain.keys()
    assert main([*words, "--trainer.max_epochs=3", f"--ckpt_path={last}"]).trainer.current_epoch == 3
    export_clean(last, tmp_path / "clean", license="mit")
    for folder in (tmp_path / "clean", tmp_path / "clean_model"):
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
        assert {f"backbone.{name}" for name in loaded.state_dict()} <= kept.keys()
