"""What the noise layer learns from counts and evaluations, over the checkpoints of the transformers Trainer."""

import pytest
import torch
from transformers import Trainer, TrainerCallback

from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyTrainer

from .small import Images, arguments, noisy_vit

TRAINERS = [NoisyTrainer, Trainer]


@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize("stop", [6, 9])  # at the end of an epoch, and in the middle of one
def test_a_resumed_training_ends_with_the_same_weights(trainer_class, stop, tmp_path):
    noise = NoiseConfig(warmup_epochs=1, dropout=0.3)
    args = arguments(tmp_path / "whole", num_train_epochs=3, save_strategy="steps", save_steps=stop, weight_decay=0.1)
    whole = noisy_vit(noise)
    trainer_class(model=whole, args=args, train_dataset=Images()).train()
    checkpoint = tmp_path / "whole" / f"checkpoint-{stop}"
    resumed = noisy_vit(noise, seed=7)
    trainer = trainer_class(model=resumed, args=args, train_dataset=Images())
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 18
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("eval_steps", [6, 8])  # at the end of an epoch, and in the middle of one
def test_a_checkpoint_of_the_best_weights_goes_on_too(eval_steps, tmp_path):
    args = arguments(
        tmp_path, num_train_epochs=3, save_strategy="best", eval_strategy="steps", eval_steps=eval_steps,
        metric_for_best_model="eval_loss",
    )  # fmt: skip
    models = [noisy_vit(NoiseConfig(warmup_epochs=1)) for _ in range(2)]
    for model, checkpoint in zip(models, (None, str(tmp_path / f"checkpoint-{eval_steps}")), strict=True):
        trainer = NoisyTrainer(model=model, args=args, train_dataset=Images(), eval_dataset=Images(9))
        trainer.train(resume_from_checkpoint=checkpoint)
    for name, value in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value), name


class Faint(Images):
    """Images whose class is hard to see, so that they take several epochs."""

    def __getitem__(self, index):
        image = super().__getitem__(index)
        image["pixel_values"][index % 3] -= 1.3
        return image


class Shown(TrainerCallback):
    """What each epoch has shown, of what the model holds and the Trainer has measured."""

    def __init__(self):
        self.epochs = []

    def on_evaluate(self, args, state, control, model, metrics, **kwargs):
        counted = model.label_counts.sum()
        in_training = float(model.label_counts.trace() / counted), float(model.confidence / counted)
        self.epochs.append((metrics["eval_accuracy"], metrics["eval_loss"], *in_training))


def train_validated(tmp_path, checkpoint=None, **options):
    """12 epochs of 6 steps: a warm-up of 3 epochs without a validation."""
    options = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch", **options}
    model, shown = noisy_vit(NoiseConfig()), Shown()
    with torch.no_grad():
        model.backbone.classifier.weight.mul_(100)  # sure of its first answers, which are as good as guessed
    args = arguments(tmp_path, num_train_epochs=12, learning_rate=3e-4, **options)
    trainer = NoisyTrainer(
        model=model, args=args, train_dataset=Faint(), eval_dataset=Faint(120), callbacks=[shown],
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(1) == seen.label_ids).mean())},
    )  # fmt: skip
    trainer.train(checkpoint)
    return model, shown.epochs


def test_the_automatic_warm_up_grows_with_the_evaluation(tmp_path):
    model, shown = train_validated(tmp_path)
    expected = 3
    for epoch, (accuracy, loss, agreement, confidence) in enumerate(shown):
        is_best = all(accuracy > a and loss < b for a, b, *_ in shown[:epoch])
        is_good = is_best and agreement <= accuracy + 0.05 and agreement <= confidence
        expected += epoch + 1 == expected and is_good and expected < 8
    warmup = model.noise_layer.warmup
    assert (warmup.planned, warmup.epochs) == (3, expected)
    assert expected > 3, "the case shows nothing"
    assert warmup.best_accuracy == pytest.approx(max(accuracy for accuracy, *_ in shown[:expected]))
    assert warmup.lowest_loss == pytest.approx(min(loss for _, loss, *_ in shown[:expected]), rel=1e-5)
    unseen, _ = train_validated(tmp_path / "unseen", eval_strategy="no")
    assert unseen.noise_layer.warmup_epochs == 3


@pytest.mark.parametrize(
    ("saved", "step"), [("steps", 15), ("steps", 21), ("steps", 33), ("epoch", 18), ("epoch", 24), ("epoch", 36)]
)
def test_a_training_that_goes_on_has_the_same_warm_up(saved, step, tmp_path):
    """From the middle of an epoch, or its end after the evaluation, before and after the end of the warm-up."""
    whole, _ = train_validated(tmp_path, save_strategy=saved)
    resumed, _ = train_validated(tmp_path, str(tmp_path / f"checkpoint-{step}"), save_strategy=saved)
    assert whole.noise_layer.warmup_epochs == 4
    assert resumed.noise_layer.warmup == whole.noise_layer.warmup
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_warm_up_that_is_given_counts_also_where_a_training_goes_on(tmp_path):
    args = arguments(tmp_path, num_train_epochs=4, save_strategy="steps", save_steps=6)
    Trainer(model=noisy_vit(NoiseConfig()), args=args, train_dataset=Images()).train()
    model = noisy_vit(NoiseConfig(warmup_epochs=3))
    Trainer(model=model, args=args, train_dataset=Images()).train(str(tmp_path / "checkpoint-6"))
    assert model.noise_layer.warmup_epochs == 3


def test_several_gpus_need_a_process_each(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="a process for each GPU, but got one process for 2"):
        Trainer(model=noisy_vit(NoiseConfig()), args=args, train_dataset=Images()).train()
    Trainer(model=noisy_vit(NoiseConfig.paper()), args=args, train_dataset=Images()).train()  # nothing to count
