"""What only a GPU can tell of a Lightning training: `pytest -m gpu`."""

import copy
import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, TensorDataset

from lightning_noisy import NoiseLayer, NoisyImageClassifier
from lightning_noisy.noise.objective import noisy_objective
from lightning_noisy.training.sharding import ShardedStrategy

pytestmark = pytest.mark.gpu


def images(count=64):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    pixels = torch.randn(count, 3, 32, 32, generator=generator)
    pixels[torch.arange(count), labels] += 2
    return TensorDataset(pixels, torch.where(torch.arange(count) % 5 == 0, (labels + 1) % 3, labels))


def classifier(name="test_vit", **options):
    kwargs = {"patch_size": 8} if name == "test_vit" else {}
    torch.manual_seed(0)
    return NoisyImageClassifier(
        f"timm:{name}", num_classes=3, pretrained=False, image_size=32, backbone_kwargs=kwargs, **options
    )


def fit(module, tmp_path, **options):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        **{"max_epochs": 4, "accelerator": "cuda", "devices": 1, "default_root_dir": tmp_path, **quiet, **options}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(images(), batch_size=16), options.get("validation"))
    return trainer


def told(num_classes=10):
    layer = NoiseLayer(num_classes)
    layer.update_from_counts(torch.eye(num_classes) * 50 + 3)
    assert layer.share == 1
    return layer


@pytest.mark.parametrize("num_classes", [3, 100])
def test_layer_and_loss_are_those_of_float64_on_a_cpu(num_classes):
    layer = told(num_classes).eval()
    logits, labels = torch.randn(64, num_classes) * 3, torch.randint(num_classes, (64,))
    ours = copy.deepcopy(layer).cuda()
    exact = layer.weight.double().log_softmax(dim=0)  # log T transposed
    mixed = (logits.double().softmax(dim=1) @ layer.weight.double().T).log_softmax(dim=1)
    torch.testing.assert_close(ours(logits.cuda()).cpu().double(), mixed, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.transition_matrix().cpu().double(), exact.T.exp(), atol=1e-5, rtol=1e-4)
    on_cpu = noisy_objective(layer, logits, labels)
    torch.testing.assert_close(noisy_objective(ours, logits.cuda(), labels.cuda()).cpu(), on_cpu, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed", "bf16-true"])
def test_precisions_train_with_the_layer_in_float32(precision, tmp_path):
    module = classifier()
    trainer = fit(module, tmp_path, precision=precision)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert module.noise_layer.weight.dtype == module.noise_layer.progress.dtype == torch.float32
    assert module.noise_layer.progress[1] == 3  # told of each epoch but the last


@pytest.mark.parametrize(
    "options",
    [
        {"channels_last": True},
        {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"fused": True}}},
        {"compile": True},
    ],
)
def test_what_makes_it_fast_changes_nothing(options, tmp_path):
    losses = []
    for extra in ({}, options):
        trainer = fit(classifier("test_resnet", **extra), tmp_path)
        losses.append(float(trainer.callback_metrics["train/loss_clean"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("strategy", [ShardedStrategy, lambda: DDPStrategy(process_group_backend="nccl")])
def test_one_process_under_nccl_ends_as_without(strategy, tmp_path, single_process):
    ends = []
    for chosen in ("auto", strategy()):
        module = classifier()
        trainer = fit(module, tmp_path, strategy=chosen, use_distributed_sampler=False)  # it would shuffle
        ends.append(float(trainer.callback_metrics["train/loss_clean"]))
    assert ends[1] == pytest.approx(ends[0], rel=1e-3)


def test_a_checkpoint_of_a_gpu_loads_on_a_cpu(tmp_path):
    module = classifier()
    trainer = fit(module, tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = NoisyImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu").eval()
    pixels = images().tensors[0][:8]
    on_gpu = module.cuda().eval()(pixels.cuda()).cpu()
    torch.testing.assert_close(loaded(pixels), on_gpu, atol=1e-3, rtol=1e-3)


def test_a_resumed_training_ends_as_a_whole_one(tmp_path):
    whole = classifier()
    fit(whole, tmp_path, max_epochs=6)
    half = classifier()
    trainer = fit(half, tmp_path, max_epochs=3)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = classifier()
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_epochs=6, accelerator="cuda", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(resumed, DataLoader(images(), batch_size=16), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(resumed.noise_layer.progress.cpu()[1:2], whole.noise_layer.progress.cpu()[1:2])
    assert resumed.noise_layer.transition_matrix().trace() == pytest.approx(
        float(whole.noise_layer.transition_matrix().trace()), abs=0.3
    )


def test_no_loss_waits_for_the_gpu():
    layer = told().cuda()
    logits, labels = torch.randn(64, 10, device="cuda", requires_grad=True), torch.randint(10, (64,), device="cuda")
    noisy_objective(layer, logits, labels).backward()  # what is asked for once is known now
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = noisy_objective(layer, logits, labels)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
