import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, Trainer, TrainerState, ViTImageProcessor

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.hf import (
    NoiseLayerCallback,
    NoisyForImageClassification,
    NoisyImageClassificationConfig,
    NoisyTrainer,
)
from lightning_noisy.noise.counting import triples_to_counts

from .small import NO_WARMUP, PAPER, Images, arguments, batch, noisy_vit, tiny_vit

TRAINERS = [NoisyTrainer, Trainer]


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_training_moves_the_network_and_the_noise_layer(trainer_class, tmp_path):
    model = noisy_vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = trainer_class(model=model, args=arguments(tmp_path), train_dataset=Images(), eval_dataset=Images(9))
    trainer.train()
    for name in ("noise_layer.weight", "backbone.classifier.weight"):
        assert not torch.equal(model.state_dict()[name], before[name])


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_the_noise_layer_rests_in_the_warm_up(trainer_class, tmp_path):
    model = noisy_vit(NoiseConfig(warmup_epochs=2, init="identity"))
    weights = []

    class Watched(trainer_class):
        def training_step(self, model, inputs, *args, **kwargs):
            weights.append(model.noise_layer.weight.detach().clone())
            return super().training_step(model, inputs, *args, **kwargs)

    Watched(model=model, args=arguments(tmp_path, num_train_epochs=4), train_dataset=Images()).train()
    assert len(weights) == 24
    for weight in weights[:12]:
        assert torch.equal(weight, weights[0])
    assert not torch.equal(weights[14], weights[0])
    assert not model.in_warmup


def test_the_noise_layer_has_its_own_learning_rate_and_no_weight_decay(tmp_path):
    model = noisy_vit(NoiseConfig(init="identity", warmup_epochs=0, lr_scale=0.25))
    args = arguments(tmp_path, weight_decay=0.1, lr_scheduler_type="constant")
    trainer = NoisyTrainer(model=model, args=args, train_dataset=Images())
    trainer.train()
    groups = trainer.optimizer.param_groups
    owner = {id(parameter): group for group in groups for parameter in group["params"]}
    noise = owner[id(model.noise_layer.weight)]
    assert (noise["lr"], noise["weight_decay"]) == (0.25e-2, 0.0)
    assert owner[id(model.backbone.classifier.weight)]["weight_decay"] == 0.1
    assert owner[id(model.backbone.classifier.weight)]["lr"] == 1e-2
    assert len(owner) == len(list(model.parameters()))
    assert model.noise_layer.weight.requires_grad


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_the_plain_trainer_ends_with_the_same_weights(optim, tmp_path):
    found = []
    for trainer_class in TRAINERS:
        model = noisy_vit(NoiseConfig(warmup_epochs=1, dropout=0.3))
        args = arguments(tmp_path, weight_decay=0.1, optim=optim, num_train_epochs=3)
        trainer_class(model=model, args=args, train_dataset=Images()).train()
        found.append(model.state_dict())
    for name, value in found[0].items():
        if not name.endswith(
            ("k_proj.bias", "key.bias")
        ):  # its true gradient is zero: what is left is rounding, which Adam makes a step of
            torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-5)
    assert not torch.equal(found[0]["noise_layer.weight"], torch.eye(3))


def test_an_optimizer_with_a_group_for_the_noise_layer_is_left_alone(tmp_path):
    model, twin = noisy_vit(PAPER), noisy_vit(PAPER).train()
    optimizer = torch.optim.SGD(model.parameter_groups(lr=0.5))
    args = arguments(tmp_path, max_steps=1, lr_scheduler_type="constant", max_grad_norm=0.0)
    Trainer(model=model, args=args, train_dataset=Images(4), optimizers=(optimizer, None)).train()
    samples = [Images(4)[index] for index in range(4)]
    pixels = torch.stack([sample["pixel_values"] for sample in samples])
    twin(pixels, labels=torch.tensor([sample["labels"] for sample in samples])).loss.backward()
    expected = twin.noise_layer.weight - 0.5 * twin.noise_layer.weight.grad
    torch.testing.assert_close(model.noise_layer.weight, expected, rtol=1e-5, atol=1e-6)


def test_a_warm_up_as_long_as_the_training_is_named(tmp_path, caplog):
    NoisyTrainer(
        model=noisy_vit(NoiseConfig(warmup_epochs=2)), args=arguments(tmp_path), train_dataset=Images()
    ).train()
    assert "will never act" in caplog.text


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_evaluation_and_prediction_are_clean(trainer_class, tmp_path):
    model = noisy_vit()
    data = Images(9)
    seen = {}

    def compute_metrics(prediction):
        seen["shape"] = prediction.predictions.shape
        return {"accuracy_noisy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

    args = arguments(tmp_path, per_device_eval_batch_size=4)
    trainer = trainer_class(model=model, args=args, eval_dataset=data, compute_metrics=compute_metrics)
    metrics = trainer.evaluate()
    pixels = torch.stack([data[i]["pixel_values"] for i in range(9)])
    labels = torch.tensor([data[i]["labels"] for i in range(9)])
    with torch.no_grad():
        logits = model.backbone(pixels).logits
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert metrics["eval_accuracy_noisy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert seen["shape"] == (9, 3)
    found = trainer.predict(data)
    np.testing.assert_allclose(found.predictions, logits.numpy(), atol=1e-5)
    assert model.run_record.metrics["eval_accuracy_noisy"] == metrics["eval_accuracy_noisy"]


@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize("count", [12, 10])  # the last small batch is whole, or half
def test_accumulation_gives_the_loss_and_the_gradients_of_one_large_batch(trainer_class, count, tmp_path):
    losses, found = [], []
    for size, steps in ((count, 1), (4, 3)):
        model = noisy_vit()
        args = arguments(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            max_grad_norm=0.0,
            logging_steps=1,
            optim="sgd",
        )
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        trainer = trainer_class(model=model, args=args, train_dataset=Images(count))
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        found.append({name: before[name] - value.detach() for name, value in model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_soft_labels_accumulate_as_hard_ones_do(trainer_class, tmp_path):
    class Soft(Images):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return {**sample, "labels": F.one_hot(torch.tensor(sample["labels"]), 3).float()}

    losses = []
    for data in (Images(12), Soft(12)):
        args = arguments(tmp_path, gradient_accumulation_steps=3, max_steps=1, logging_steps=1)
        trainer = trainer_class(model=noisy_vit(), args=args, train_dataset=data)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_label_smoothing_stands_on_the_noisy_side(tmp_path):
    model = noisy_vit()
    args = arguments(tmp_path, label_smoothing_factor=0.3, gradient_accumulation_steps=3, max_steps=1, logging_steps=1)
    trainer = NoisyTrainer(model=model, args=args, train_dataset=Images(12), eval_dataset=Images(12))
    pixels = torch.stack([Images(12)[i]["pixel_values"] for i in range(12)])
    labels = torch.tensor([Images(12)[i]["labels"] for i in range(12)])
    with torch.no_grad():
        out = model.train()(pixels, labels=labels)
    expected = F.cross_entropy(out.noisy_log_probs, labels, label_smoothing=0.3).item()
    clean = trainer.evaluate()["eval_loss"]
    assert clean == pytest.approx(F.cross_entropy(out.logits, labels).item(), rel=1e-4), "evaluation is not smoothed"
    trainer.train()
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert logged == pytest.approx(expected, rel=1e-4)


class Refined(Images):
    """With soft labels that say the true class."""

    def __getitem__(self, index):
        soft = F.one_hot(torch.tensor(index % 3), 3) * 0.7 + 0.1
        return {**super().__getitem__(index), "soft_targets": soft}


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("trainer_class", [Trainer, NoisyTrainer])
def test_soft_targets_are_trained_on_and_the_given_ones_counted(tmp_path, trainer_class, smoothing):
    if smoothing and trainer_class is Trainer:
        pytest.skip("refused: see below")
    model, data = noisy_vit(NoiseConfig(dropout=0.0)), Refined(12)
    rows = [data[index] for index in range(12)]
    pixels, soft = (torch.stack([row[name] for row in rows]) for name in ("pixel_values", "soft_targets"))
    with torch.no_grad():
        logits = model.train()(pixels).logits.double()
    smoothed = soft * (1 - smoothing) + smoothing / 3
    expected = -(smoothed * logits.log_softmax(dim=1)).sum(dim=1) + (1 - (smoothed * logits.softmax(1)).sum(1)).log()
    expected = expected.mean().item()
    args = arguments(
        tmp_path, label_smoothing_factor=smoothing, gradient_accumulation_steps=3, max_steps=1, logging_steps=1
    )
    trainer = trainer_class(model=model, args=args, train_dataset=data, eval_dataset=data)
    trainer.train()
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert logged == pytest.approx(expected, rel=1e-4)
    labels = torch.tensor([row["labels"] for row in rows])
    if not smoothing:
        assert torch.equal(model.label_counts.sum(dim=0), torch.bincount(labels, minlength=3).double())
    with torch.no_grad():
        clean = F.cross_entropy(model.eval()(pixels).logits, labels).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(clean, rel=1e-4), "an evaluation is on the given labels"


@pytest.mark.parametrize("bypass", ["label_smoothing_factor", "compute_loss_func"])
def test_the_plain_trainer_can_t_bypass_the_noise_layer(bypass, tmp_path):
    smoothing = {"label_smoothing_factor": 0.1} if bypass == "label_smoothing_factor" else {}
    function = (lambda outputs, labels, **_: outputs.logits.sum()) if bypass == "compute_loss_func" else None
    args = arguments(tmp_path, **smoothing)
    trainer = Trainer(model=noisy_vit(), args=args, train_dataset=Images(), compute_loss_func=function)
    with pytest.raises(ValueError, match=f"{bypass}.*NoisyTrainer"):
        trainer.train()


def test_noisy_trainer_refuses_what_would_bypass_the_layer(tmp_path):
    with pytest.raises(ValueError, match=r"`compute_loss_func` to be None"):
        NoisyTrainer(model=noisy_vit(), args=arguments(tmp_path), compute_loss_func=lambda *_: None)
    with pytest.raises(ValueError, match=r"`model`.*ViTForImageClassification.*from_backbone"):
        NoisyTrainer(model=tiny_vit(), args=arguments(tmp_path))


def test_a_checkpoint_is_a_model_with_its_record(tmp_path):
    model = noisy_vit()
    args = arguments(tmp_path, save_strategy="epoch", eval_strategy="epoch", logging_steps=6)
    trainer = NoisyTrainer(model=model, args=args, train_dataset=Images(), eval_dataset=Images(6))
    trainer.train()
    loaded = NoisyForImageClassification.from_pretrained(tmp_path / "checkpoint-12")
    assert torch.equal(loaded.noise_layer.weight, model.noise_layer.weight)
    record = loaded.run_record
    assert (record.trainer, record.epochs, record.steps) == ("transformers", 2.0, 12)
    assert record.hyperparameters["learning_rate"] == 1e-2
    assert record.hyperparameters["optim"] == "adamw_torch_fused"
    assert record.data == {"train_images": 24}
    assert sum(count for _, _, count in record.label_counts) == 24
    assert set(record.metrics) == {"eval_loss"}
    assert str(tmp_path) not in json.dumps(record.to_dict())


def test_the_noise_is_in_the_logs(tmp_path):
    trainers = {}
    for epochs in (1, 2):
        args = arguments(tmp_path / str(epochs), logging_steps=6, num_train_epochs=epochs, lr_scheduler_type="constant")
        trainers[epochs] = NoisyTrainer(model_init=lambda: noisy_vit(), args=args, train_dataset=Images())
        trainers[epochs].train()
    second = [entry for entry in trainers[2].state.log_history if "loss" in entry][1]
    first = trainers[1].model  # at the end of the epoch that the log tells of
    counts = triples_to_counts(first.run_record.label_counts, 3)
    assert second["noise/estimated_rate"] == pytest.approx(1 - float(counts.trace() / counts.sum()))
    layer = NoiseLayer(first.noise_layer.config)
    layer.update_from_counts(counts)
    assert second["noise/trace"] == pytest.approx(float(layer.transition_matrix().trace()), rel=1e-5)
    kept = trainers[2].model.run_record.history
    assert [row["epoch"] for row in kept] == list(range(1, len(kept) + 1))
    assert kept[1] == {"epoch": 2} | {name: second[name] for name in second if name.startswith(("loss", "noise/"))}


def test_a_lost_class_is_named(tmp_path, caplog):
    model = noisy_vit()
    with torch.no_grad():
        model.backbone.classifier.bias[2] = -1e4
    NoisyTrainer(model=model, args=arguments(tmp_path, num_train_epochs=1), train_dataset=Images()).train()
    assert "does not predict class 'cat'" in caplog.text


def test_the_callback_leaves_other_models_alone(tmp_path):
    model = tiny_vit()
    trainer = Trainer(model=model, args=arguments(tmp_path, logging_steps=6), train_dataset=Images())
    trainer.train()
    assert all("noise/trace" not in entry for entry in trainer.state.log_history)


def test_bf16_autocast_and_frozen_backbone(tmp_path):
    model = noisy_vit(PAPER)
    for parameter in model.backbone.vit.parameters():
        parameter.requires_grad = False
    start = model.noise_layer.weight.clone()
    NoisyTrainer(model=model, args=arguments(tmp_path, bf16=True, max_steps=2), train_dataset=Images()).train()
    assert model.noise_layer.weight.dtype == torch.float32
    assert not torch.equal(model.noise_layer.weight, start)


def test_a_fixed_noise_layer_and_none_at_all(tmp_path):
    for noise in (NoiseConfig(trainable=False, warmup_epochs=0), None):
        model = noisy_vit(noise)
        trainer = NoisyTrainer(model=model, args=arguments(tmp_path, max_steps=2), train_dataset=Images())
        trainer.train()
        assert len(trainer.optimizer.param_groups) == 2
        if noise is not None:
            assert torch.equal(model.noise_layer.weight, torch.eye(3))


def test_the_epoch_is_forgotten_after_the_training(tmp_path):
    model = noisy_vit(NoiseConfig(warmup_epochs=5))
    NoisyTrainer(model=model, args=arguments(tmp_path, max_steps=2), train_dataset=Images()).train()
    images, labels = batch()
    out = model.train()(images, labels=labels)
    assert out.loss.item() == pytest.approx(F.nll_loss(out.noisy_log_probs, labels).item(), rel=1e-5)
    assert not model.in_warmup
    assert NO_WARMUP.warmup_epochs == 0


def test_a_generated_card_survives_the_trainer_s_own(tmp_path):
    trainer = NoisyTrainer(model=noisy_vit(), args=arguments(tmp_path, max_steps=1), train_dataset=Images())
    trainer.train()
    trainer.create_model_card()
    assert "generated automatically" in (tmp_path / "README.md").read_text()
    card = "---\nlicense: mit\ntags: [lightning-noisy]\n---\nmine"
    (tmp_path / "README.md").write_text(card)
    trainer.create_model_card()
    assert (tmp_path / "README.md").read_text() == card


def test_gradient_checkpointing_by_the_training_arguments(tmp_path):
    found = []
    for enable in (False, True):
        model = noisy_vit()
        args = arguments(tmp_path, gradient_checkpointing=enable, max_steps=3)
        NoisyTrainer(model=model, args=args, train_dataset=Images()).train()
        found.append(model.noise_layer.weight)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return (Images()[index] for index in range(24))


def test_a_stream_counts_a_pass_as_an_epoch(tmp_path, caplog):
    model = noisy_vit(NoiseConfig(warmup_epochs=3))
    Trainer(model=model, args=arguments(tmp_path, max_steps=8), train_dataset=Stream()).train()
    assert "never acted" in caplog.text and "`warmup_epochs` were not over" in caplog.text
    caplog.clear()
    model = noisy_vit(NoiseConfig(warmup_epochs=1))
    Trainer(model=model, args=arguments(tmp_path, max_steps=14), train_dataset=Stream()).train()
    assert "never acted" not in caplog.text, "six steps are a pass"
    assert not torch.equal(model.noise_layer.weight, torch.eye(3))


def test_the_record_is_that_of_the_best_weights_where_the_trainer_goes_back_to_them(tmp_path):
    model = noisy_vit()
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    args = arguments(tmp_path, num_train_epochs=4, learning_rate=0.3, **options)
    trainer = NoisyTrainer(model=model, args=args, train_dataset=Images(), eval_dataset=Images(9))
    trainer.train()
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    best = min(evaluated, key=lambda entry: entry["eval_loss"])
    assert best is not evaluated[-1], "the last epoch is not the best one here"
    assert model.run_record.metrics["eval_loss"] == best["eval_loss"]
    assert model.run_record.epochs == best["epoch"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("noise", "weight_decay", "warns"), [(PAPER, 0.1, True), (PAPER, 0.0, False), (NoiseConfig(), 0.1, False)]
)
def test_a_decay_of_a_layer_that_learns_is_named(noise, weight_decay, warns, tmp_path, caplog):
    args = arguments(tmp_path, max_steps=1, weight_decay=weight_decay)
    Trainer(model=noisy_vit(noise), args=args, train_dataset=Images()).train()
    assert ("Use NoisyTrainer" in caplog.text) == warns


def test_the_processor_of_the_trainer_goes_with_the_model(tmp_path):
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1] * 3)
    model = noisy_vit()
    args = arguments(tmp_path, max_steps=1)
    NoisyTrainer(model=model, args=args, train_dataset=Images(), processing_class=processor).train()
    model.save_pretrained(tmp_path / "saved")
    assert list(AutoImageProcessor.from_pretrained(tmp_path / "saved").image_mean) == [0.1] * 3


def test_beside_the_shards_of_fsdp_lie_the_config_and_the_record(tmp_path):
    """Of a sharded model the Trainer saves the shards alone; what an export needs beside them is the callback's."""
    model = noisy_vit()
    model.run_record.metrics["eval_loss"] = 0.5
    state, args = TrainerState(global_step=5), arguments(tmp_path)
    (tmp_path / "checkpoint-5").mkdir()
    NoiseLayerCallback().on_save(args, state, None, model=model)
    config = NoisyImageClassificationConfig.from_pretrained(tmp_path / "checkpoint-5")
    assert config.noise_config == model.noise_layer.config
    assert json.loads((tmp_path / "checkpoint-5" / "noisy_training.json").read_text())["metrics"] == {"eval_loss": 0.5}
