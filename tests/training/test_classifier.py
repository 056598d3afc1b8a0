import lightning.pytorch as L
import pytest
import timm
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from lightning_noisy import NoiseConfig, NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.hub import export_clean

from .small import fit, tiny, tiny_data


class OwnNetwork(nn.Module):
    data_config = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}  # noqa: RUF012

    def __init__(self, outputs=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, outputs))
        self.layers(torch.zeros(1, 3, 16, 16))

    def forward(self, images):
        return self.layers(images)


def test_it_learns_and_what_remains_has_no_noise_layer(photos, tmp_path):
    L.seed_everything(0)
    module = tiny(class_names=["ant", "bee", "cat"], noise={"warmup_epochs": 10})
    data = tiny_data(photos, augmentation={"no_aug": True}, test_source=str(photos))
    trainer = fit(module, data, tmp_path, max_epochs=20)
    assert trainer.test(module, data, verbose=False)[0]["test/accuracy_noisy"] > 0.8
    clean = module.clean_model()
    assert clean is not module.backbone
    assert not clean.training
    assert not any("noise" in name for name in clean.state_dict())
    images = torch.randn(2, 3, 16, 16)
    module.eval()
    assert torch.equal(clean(images), module(images))


def test_metric_names_tell_the_kind_of_label(photos, tmp_path):
    module = tiny()
    trainer = fit(module, tiny_data(photos, noise="uniform:0.5"), tmp_path)
    assert {
        "train/loss",
        "train/accuracy_noisy",
        "train/accuracy_clean",
        "val/loss_noisy",
        "val/accuracy_noisy",
        "val/accuracy_clean",
        "noise/estimated_rate",
        "noise/trace",
    } <= set(trainer.callback_metrics)
    trainer = fit(tiny(), tiny_data(photos), tmp_path)
    told_clean = {name for name in trainer.callback_metrics if "clean" in name}
    assert told_clean == {"train/loss_clean"}, "of the clean logits; no label of these data is known to be clean"


def test_accuracies_are_the_shares_of_right_answers(photos, tmp_path):
    module, data = tiny(), tiny_data(photos, noise="uniform:0.8", val_fraction=0.5)
    trainer = fit(module, data, tmp_path, max_epochs=1)
    right = {"noisy": [], "clean": []}
    module.eval()
    for batch in data.val_dataloader():
        predicted = module(batch.images).argmax(1)
        right["noisy"].append((predicted == batch.noisy_labels).float())
        right["clean"].append((predicted == batch.clean_labels).float())
    for kind, parts in right.items():
        assert trainer.callback_metrics[f"val/accuracy_{kind}"].item() == pytest.approx(torch.cat(parts).mean().item())


def test_a_checkpoint_needs_nothing_but_the_file(photos, tmp_path):
    module = tiny(
        class_names=["ant", "bee", "cat"], trainable_blocks=1, layer_decay=0.5, mixup=0.2, label_smoothing=0.1
    )
    trainer = fit(module, tiny_data(photos), tmp_path)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = NoisyImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.hparams == module.hparams
    assert loaded.noise_layer.config == module.noise_layer.config
    assert loaded.class_names == ["ant", "bee", "cat"]
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items())
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in module.parameters()]
    assert loaded.data_config == module.data_config


def test_a_checkpoint_of_ones_own_network_asks_for_it(photos, tmp_path):
    module = NoisyImageClassifier(OwnNetwork(), num_classes=3)
    fit(module, tiny_data(photos), tmp_path).save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"`backbone`.*load_from_checkpoint\(path, backbone=module\)"):
        NoisyImageClassifier.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    loaded = NoisyImageClassifier.load_from_checkpoint(tmp_path / "own.ckpt", backbone=OwnNetwork(), weights_only=True)
    assert torch.equal(loaded.backbone.layers[3].weight, module.backbone.layers[3].weight)


@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.4},
        {"cutmix": 1.0, "mixup": 0.4, "label_smoothing": 0.1},
        {"label_smoothing": 0.1},
        {"noise": {"noise_type": "stochastic", "warmup_epochs": 1}},
        {"noise": {"dropout_on": "weight", "warmup_epochs": 0}, "lr_scheduler": None},
        {"lr_warmup_steps": 2, "layer_decay": 0.8},
        {"noise": None, "trainable_blocks": 0},
    ],
    ids=lambda options: " ".join(options),
)
def test_options_train_with_the_layer(options, photos, tmp_path):
    module = tiny(**options)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = fit(module, tiny_data(photos), tmp_path)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    for name, parameter in module.named_parameters():
        if name.startswith(("backbone.head", "noise_layer")):
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
        {"callbacks": [EMAWeightAveraging(decay=0.5)]},
        {"max_epochs": -1, "max_steps": 5},
    ],
    ids=lambda options: " ".join(options),
)
def test_trainer_options_work_with_the_layer(options, photos, tmp_path):
    module = tiny()
    trainer = fit(module, tiny_data(photos), tmp_path, **options)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert module.noise_layer.weight.dtype == torch.float32
    assert not torch.equal(module.noise_layer.weight, torch.eye(3))


def test_groups_keep_the_ratio_of_their_learning_rates_under_any_scheduler(photos, tmp_path):
    schedules = {
        "cosine": "cosine",
        "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20),
        "plateau": lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    }
    for schedule in schedules.values():
        module = tiny(
            lr_scheduler=schedule, lr_scheduler_interval="epoch", noise={"init": "identity", "lr_scale": 0.25}
        )
        rates = []

        class Watch(L.Callback):
            def on_train_batch_end(self, trainer, *_, seen=rates):
                seen.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})

        fit(module, tiny_data(photos), tmp_path, callbacks=[Watch()])
        assert all(step["noise_layer"] == pytest.approx(0.25 * step["backbone"]) for step in rates)
        assert len({step["backbone"] for step in rates}) > 1 or schedule is schedules["plateau"]


def test_learning_rate_and_weight_decay_are_the_optimizers(photos, tmp_path):
    module = tiny(
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.02, weight_decay=0.3),
        lr_scheduler=None,
        noise={"init": "identity", "lr_scale": 0.5},
    )
    trainer = fit(module, tiny_data(photos), tmp_path, max_epochs=1)
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in trainer.optimizers[0].param_groups}
    assert groups == {
        "backbone": (0.02, 0.3),
        "backbone/no_decay": (0.02, 0.0),
        "noise_layer": (pytest.approx(0.01), 0.0),
    }


MISTAKES = {
    "no classes": (lambda: NoisyImageClassifier("timm:test_vit", pretrained=False), "`num_classes`.*None"),
    "names": (lambda: tiny(class_names=["a", "b"]), "`class_names`.*3.*got 2"),
    "noise classes": (lambda: tiny(noise=NoiseConfig(5)), r"that of the model \(3\), but got 5"),
    "layer decay": (lambda: tiny(layer_decay=1.5), r"`layer_decay`.*\(0,1\].*1.5"),
    "scheduler": (lambda: tiny(lr_scheduler="cosin"), "`lr_scheduler`.*'cosine'.*'cosin'"),
    "interval": (lambda: tiny(lr_scheduler_interval="batch"), "`lr_scheduler_interval`.*'batch'"),
    "optimizer": (lambda: tiny(optimizer={"class_path": "torch.optim.Nope"}), "`optimizer`.*unknown class"),
    "mixup": (lambda: tiny(mixup=-1.0), "`mixup`"),
    "smoothing": (lambda: tiny(label_smoothing=1.0), "`label_smoothing`"),
    "warm-up": (lambda: tiny(lr_warmup_steps=-1), "`lr_warmup_steps`"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_wrong_argument_is_named(mistake):
    build, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        build()


def test_data_of_other_classes_are_refused_before_an_epoch(photos, tmp_path):
    module = NoisyImageClassifier("timm:test_vit", num_classes=5, pretrained=False, image_size=16)
    with pytest.raises(ValueError, match="the 5 classes of the model, but got 3"):
        fit(module, tiny_data(photos), tmp_path)


def test_a_network_with_another_number_of_outputs_is_refused(photos, tmp_path):
    with pytest.raises(ValueError, match=r"\(B, 3\), one for each class, but got \(\d+, 4\)"):
        fit(NoisyImageClassifier(OwnNetwork(outputs=4), num_classes=3), tiny_data(photos), tmp_path)


def test_exploding_logits_are_named(photos, tmp_path):
    module = tiny(optimizer=lambda groups: torch.optim.SGD(groups, lr=1e30), lr_scheduler=None)
    with pytest.raises(ValueError, match=r"finite, but got NaN or infinity at step \d.*learning rate"):
        fit(module, tiny_data(photos), tmp_path)


def test_the_size_that_the_data_name_is_that_of_the_checkpoint_and_of_the_export(photos, tmp_path):
    module = NoisyImageClassifier("timm:test_resnet", 3, ["ant", "bee", "cat"], pretrained=False)
    assert module.data_config["input_size"] == (3, 160, 160)
    trainer = fit(module, NoisyImageDataModule(str(photos), image_size=32, num_workers=0), tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = NoisyImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.data_config["input_size"] == (3, 32, 32)
    export_clean(tmp_path / "last.ckpt", tmp_path / "clean", license="mit")
    model = timm.create_model(f"local-dir:{tmp_path / 'clean'}", pretrained=True)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 32, 32)
