"""What the noise layer learns from counts and evaluations, over the checkpoints of the transformers Trainer."""

import pytest
import torch
from transformers import Trainer, TrainerCallback

from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyTrainer

from .small import Images, arguments, batch, noisy_vit

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


class SaveAt(TrainerCallback):
    """What a user's own callback does, which comes after the project's."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_save or state.global_step == self.step


@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize("step", [6, 9])
def test_a_checkpoint_that_a_callback_of_ones_own_asks_for_resumes_exactly(trainer_class, step, tmp_path):
    models = [noisy_vit(NoiseConfig(warmup_epochs=1)) for _ in range(2)]
    for model, checkpoint in zip(models, (None, str(tmp_path / f"checkpoint-{step}")), strict=True):
        trainer = trainer_class(
            model=model, args=arguments(tmp_path, num_train_epochs=3), train_dataset=Images(), callbacks=[SaveAt(step)]
        )
        trainer.train(resume_from_checkpoint=checkpoint)
    for name, value in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value), name


class SaveNow(TrainerCallback):
    """What the Trainer's handling of SIGTERM does: it saves past the flag, and ends the training."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            control.should_training_stop = True
            self.trainer._save_checkpoint(self.trainer.model, trial=None)


def test_a_checkpoint_of_a_preempted_training_resumes_exactly(tmp_path):
    models = [noisy_vit(NoiseConfig(warmup_epochs=1)) for _ in range(3)]
    args = arguments(tmp_path, num_train_epochs=3)
    trainers = [Trainer(model=model, args=args, train_dataset=Images()) for model in models]
    trainers[1].add_callback(SaveNow(trainers[1]))
    for trainer, checkpoint in zip(trainers, (None, None, str(tmp_path / "checkpoint-9")), strict=True):
        trainer.train(resume_from_checkpoint=checkpoint)
    for name, value in models[0].state_dict().items():
        assert torch.equal(models[2].state_dict()[name], value), name


def test_an_evaluation_tells_the_layer_what_is_not_learned_by_heart(tmp_path):
    model = noisy_vit(NoiseConfig())
    args = arguments(tmp_path, num_train_epochs=3, eval_strategy="epoch")
    NoisyTrainer(model=model, args=args, train_dataset=Images(), eval_dataset=Images(9)).train()
    assert model.epoch_counts.last.validated == 9
    unseen = noisy_vit(NoiseConfig())
    NoisyTrainer(model=unseen, args=arguments(tmp_path, num_train_epochs=3), train_dataset=Images()).train()
    assert unseen.epoch_counts.last.validated == 0


def test_values_are_looked_at_in_evaluation_as_often_as_in_training():
    model = noisy_vit(NoiseConfig())
    images, labels = batch()
    model.eval()(images, labels=labels)
    model.train()(images, labels=labels)
    assert model._losses_computed == 2


def test_a_warm_up_that_is_given_counts_also_where_a_training_goes_on(tmp_path):
    args = arguments(tmp_path, num_train_epochs=4, save_strategy="steps", save_steps=6)
    Trainer(model=noisy_vit(NoiseConfig()), args=args, train_dataset=Images()).train()
    model = noisy_vit(NoiseConfig(warmup_epochs=3))
    Trainer(model=model, args=args, train_dataset=Images()).train(str(tmp_path / "checkpoint-6"))
    assert model.noise_layer.warmup_epochs == 3 and model.noise_layer.share == 1


def test_several_gpus_need_a_process_each(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="a process for each GPU, but got one process for 2"):
        Trainer(model=noisy_vit(NoiseConfig()), args=args, train_dataset=Images()).train()
