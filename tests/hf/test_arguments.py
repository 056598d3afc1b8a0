"""Arguments of transformers: each trains as it says, and the noise layer is told what it needs; or one sentence."""

import contextlib
import os
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset as Table
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback

from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyForImageClassification, NoisyTrainer
from lightning_noisy.hf.wrapping import noisy_model_inside

from .small import NAMES, PAPER, Images, arguments, noisy_vit, saved_timm

TRAINERS = [NoisyTrainer, Trainer]
ACTS_SOON = NoiseConfig(warmup_epochs=1)
IMAGES = 12
"""Of three batches; a class has four of them, of which one or two carry another label."""
VALIDATED = 5


class Counting:
    """Counts what the Trainer gives to the model, apart from the model itself."""

    def training_step(self, model, inputs, *rest):
        epoch = noisy_model_inside(self.model)._epoch
        assert epoch == int(self.state.epoch or 0)
        self.seen.setdefault(epoch, []).extend(inputs["labels"].tolist())
        return super().training_step(model, inputs, *rest)


class CountingNoisyTrainer(Counting, NoisyTrainer):
    pass


class CountingTrainer(Counting, Trainer):
    pass


class AtTheEndOfAnEpoch(TrainerCallback):
    """The labels that the model has counted, by epoch."""

    def __init__(self):
        self.counted = {}

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        noisy = noisy_model_inside(model)
        self.counted[noisy._epoch] = noisy.label_counts.sum(dim=0).tolist()


class Accuracy:
    """Of all batches at once, of a list of them, or one by one (`batch_eval_metrics`)."""

    def __init__(self):
        self.right = []

    def __call__(self, prediction, compute_result=True):
        batched = isinstance(prediction.predictions, list)
        logits, labels = prediction.predictions, prediction.label_ids
        for one, given in zip(logits, labels, strict=True) if batched else [(logits, labels)]:
            self.right += (np.asarray(one).argmax(axis=1) == np.asarray(given)).tolist()
        if not compute_result:
            return {}
        right, self.right = self.right, []
        return {"accuracy": float(np.mean(right))}


def build(trainer_class, folder, model=None, **options):
    counting = {NoisyTrainer: CountingNoisyTrainer, Trainer: CountingTrainer}[trainer_class]
    defaults = {"num_train_epochs": 3, "eval_strategy": "epoch", "per_device_eval_batch_size": 3}
    trainer = counting(
        model=noisy_vit(ACTS_SOON) if model is None else model,
        args=arguments(folder, **{**defaults, **options}),
        train_dataset=Images(IMAGES),
        eval_dataset=Images(VALIDATED),
        compute_metrics=Accuracy(),
    )
    trainer.seen = {}
    trainer.add_callback(AtTheEndOfAnEpoch())
    return trainer


def counted_by(trainer):
    return next(each for each in trainer.callback_handler.callbacks if isinstance(each, AtTheEndOfAnEpoch)).counted


def clean_loss(model, dtype=torch.float32):
    """Of the evaluation's images, by the backbone alone."""
    rows = [Images(VALIDATED)[index] for index in range(VALIDATED)]
    with torch.no_grad():
        logits = model.backbone.eval()(torch.stack([row["pixel_values"] for row in rows]).to(dtype)).logits
    labels = torch.tensor([row["labels"] for row in rows])
    return F.cross_entropy(logits.float(), labels).item(), (logits.argmax(dim=1) == labels).float().mean().item()


@contextlib.contextmanager
def untouched_determinism():
    """Puts back what `full_determinism` changes in the process."""
    with mock.patch.dict(os.environ), torch.backends.cudnn.flags(deterministic=False):
        yield
        torch.use_deterministic_algorithms(False)


WHOLE = [IMAGES] * 3
TABLE = {
    "nothing": ({}, WHOLE),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 2}, WHOLE),
    "max_steps": ({"max_steps": 4}, [12, 4]),
    "num_train_epochs": ({"num_train_epochs": 1.5}, [12, 8]),
    "num_train_epochs below one": ({"num_train_epochs": 0.5}, [8]),
    "eval_steps": ({"eval_strategy": "steps", "eval_steps": 2}, WHOLE),
    "eval_steps as a share": ({"eval_strategy": "steps", "eval_steps": 0.25}, WHOLE),
    "eval_on_start": ({"eval_on_start": True}, WHOLE),
    "eval_accumulation_steps": ({"eval_accumulation_steps": 1}, WHOLE),
    "eval_delay": ({"eval_delay": 2}, WHOLE),
    "batch_eval_metrics": ({"batch_eval_metrics": True}, WHOLE),
    "eval_do_concat_batches": ({"eval_do_concat_batches": False}, WHOLE),
    "eval_use_gather_object": ({"eval_use_gather_object": True}, WHOLE),
    "prediction_loss_only": ({"prediction_loss_only": True}, WHOLE),
    "include_for_metrics": ({"include_for_metrics": ["inputs", "loss"]}, WHOLE),
    "save_total_limit": ({"save_strategy": "epoch", "save_total_limit": 1}, WHOLE),
    "save_only_model": ({"save_strategy": "steps", "save_steps": 0.3, "save_only_model": True}, WHOLE),
    "save_strategy best": ({"save_strategy": "best", "metric_for_best_model": "accuracy"}, WHOLE),
    "enable_jit_checkpoint": ({"enable_jit_checkpoint": True}, WHOLE),
    "logging_strategy": ({"logging_strategy": "no"}, WHOLE),
    "logging_steps": ({"logging_steps": 0.4, "logging_first_step": True, "logging_nan_inf_filter": False}, WHOLE),
    "include_num_input_tokens_seen": ({"include_num_input_tokens_seen": "all"}, WHOLE),
    "dataloader_drop_last": ({"dataloader_drop_last": True, "per_device_train_batch_size": 5}, [10] * 3),
    "a small last batch": ({"per_device_train_batch_size": 5}, WHOLE),
    "dataloader_num_workers": ({"dataloader_num_workers": 1, "dataloader_persistent_workers": True}, WHOLE),
    "train_sampling_strategy": ({"train_sampling_strategy": "sequential"}, WHOLE),
    "use_seedable_sampler": ({"accelerator_config": {"use_seedable_sampler": False}}, WHOLE),
    "accelerator_config": ({"accelerator_config": {"dispatch_batches": True}}, WHOLE),
    "auto_find_batch_size": ({"auto_find_batch_size": True}, WHOLE),
    "torch_compile": ({"torch_compile": True, "torch_compile_backend": "eager"}, WHOLE),
    "gradient_checkpointing": ({"gradient_checkpointing": True}, WHOLE),
    "reentrant checkpoints": (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, WHOLE,
    ),
    "average_tokens_across_devices": ({"average_tokens_across_devices": False}, WHOLE),
    "remove_unused_columns": ({"remove_unused_columns": False}, WHOLE),
    "label_names": ({"label_names": ["labels"]}, WHOLE),
    "neftune_noise_alpha": ({"neftune_noise_alpha": 5.0}, WHOLE),
    "max_grad_norm": ({"max_grad_norm": 0.1}, WHOLE),
    "no max_grad_norm": ({"max_grad_norm": 0.0}, WHOLE),
    "bf16": ({"bf16": True}, WHOLE),
    "bf16_full_eval": ({"bf16_full_eval": True}, WHOLE),
    "full_determinism": ({"full_determinism": True}, WHOLE),
    "torch_empty_cache_steps": ({"torch_empty_cache_steps": 2}, WHOLE),
    "skip_memory_metrics": ({"skip_memory_metrics": False}, WHOLE),
    "debug": ({"debug": "underflow_overflow"}, WHOLE),
    "data_seed": ({"data_seed": 3}, WHOLE),
    **{f"optim {name}": ({"optim": name}, WHOLE) for name in ("adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop")},
    "optim_args": ({"optim": "adafactor", "optim_args": "decay_rate=-0.5"}, WHOLE),
    "warmup_steps": ({"warmup_steps": 2, "lr_scheduler_type": "cosine"}, WHOLE),
    "lr_scheduler_kwargs": (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}}, WHOLE,
    ),
    "reduce_lr_on_plateau": ({"lr_scheduler_type": "reduce_lr_on_plateau"}, WHOLE),
    "greedy": ({"lr_scheduler_type": "greedy"}, WHOLE),
}  # fmt: skip


@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize("name", TABLE)
def test_an_argument_leaves_nothing_untold(name, trainer_class, tmp_path):
    options, images = TABLE[name]
    before = {key: value.clone() for key, value in noisy_vit(ACTS_SOON).state_dict().items()}
    with untouched_determinism():
        trainer = build(trainer_class, tmp_path, **options)
        trainer.train()
        metrics = trainer.evaluate()
    model = trainer.model
    assert {epoch: len(labels) for epoch, labels in trainer.seen.items()} == dict(enumerate(images))
    expected = {epoch: np.bincount(labels, minlength=3).tolist() for epoch, labels in trainer.seen.items()}
    assert counted_by(trainer) == expected, "the labels that were counted are those that were seen"
    assert model.noise_layer.progress[1] == len(images) - 1, "it is told of the last epoch when another one begins"
    assert (model.noise_layer.share == 1) == (len(images) > 1)
    validated = 3 if name == "dataloader_drop_last" else VALIDATED  # the Trainer drops those of an evaluation too
    assert model.epoch_counts.latest.validated == validated
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    if name != "dataloader_drop_last":
        loss, right = clean_loss(model, next(model.backbone.parameters()).dtype)
        tolerance = 2e-2 if name.startswith("bf16") else 1e-4
        assert metrics["eval_loss"] == pytest.approx(loss, rel=tolerance)
        if name != "prediction_loss_only":
            assert metrics["eval_accuracy"] == pytest.approx(right)


RESUMED = {
    "nothing": {},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2, "save_steps": 3},
    "num_train_epochs": {"num_train_epochs": 2.5},
    "eval_on_start and eval_steps": {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 3},
    "restore_callback_states": {"restore_callback_states_from_checkpoint": True},
    "dataloader_drop_last": {"dataloader_drop_last": True, "per_device_train_batch_size": 5, "save_steps": 3},
    "dataloader_num_workers": {"dataloader_num_workers": 1},
    "use_seedable_sampler": {
        "accelerator_config": {"use_seedable_sampler": False}, "save_steps": 3, "eval_strategy": "no",
    },
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "torch_compile": {"torch_compile": True, "torch_compile_backend": "eager"},
    "bf16": {"bf16": True},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "reduce_lr_on_plateau": {"lr_scheduler_type": "reduce_lr_on_plateau"},
    "load_best_model_at_end": {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True},
}  # fmt: skip
"""What a resume in mid-epoch repeats exactly; the order of images of `use_seedable_sampler` False only at its end."""


@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize("name", RESUMED)
def test_a_resume_is_exact(name, trainer_class, tmp_path):
    ends = []
    options = {"save_strategy": "steps", "save_steps": 4, "weight_decay": 0.1, **RESUMED[name]}
    checkpoint = str(tmp_path / f"checkpoint-{options['save_steps']}")
    for resume, seed in ((None, 0), (checkpoint, 7)):
        trainer = build(trainer_class, tmp_path, noisy_vit(ACTS_SOON, seed=seed), **options)
        trainer.train(resume_from_checkpoint=resume)
        ends.append(trainer.model)
    for key, value in ends[0].state_dict().items():
        assert torch.equal(ends[1].state_dict()[key], value), key
    assert torch.equal(ends[0].label_counts, ends[1].label_counts)
    assert ends[0].epoch_counts.latest.validated == ends[1].epoch_counts.latest.validated


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_an_epoch_that_ignore_data_skip_begins_anew_counts_its_own_images(trainer_class, tmp_path):
    build(trainer_class, tmp_path, save_strategy="steps", save_steps=4).train()
    trainer = build(trainer_class, tmp_path, ignore_data_skip=True)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert {epoch: len(labels) for epoch, labels in trainer.seen.items()} == {1: IMAGES, 2: 8}
    assert counted_by(trainer) == {epoch: np.bincount(labels).tolist() for epoch, labels in trainer.seen.items()}


@pytest.mark.parametrize("metric", ["accuracy", "eval_loss"])
@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_the_best_model_comes_back_with_its_layer(trainer_class, metric, tmp_path):
    options = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": metric}
    trainer = build(trainer_class, tmp_path, learning_rate=0.3, num_train_epochs=4, **options)
    trainer.train()
    evaluated = [entry["eval_accuracy" if metric == "accuracy" else metric] for entry in trainer.state.log_history[:-1]
                 if "eval_loss" in entry]  # fmt: skip
    best = evaluated.index(max(evaluated) if metric == "accuracy" else min(evaluated))
    saved = NoisyForImageClassification.from_pretrained(tmp_path / f"checkpoint-{3 * (best + 1)}")
    for key, value in saved.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[key], value), key
    assert trainer.model.noise_layer.progress[1] == best < 3, "the last epoch is not the best one here"


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_a_batch_too_large_leaves_nothing_in_the_counts(trainer_class, tmp_path):
    trainer = build(trainer_class, tmp_path, auto_find_batch_size=True, per_device_train_batch_size=6)
    step, sizes = trainer.training_step, []

    def too_large(model, inputs, *rest):
        sizes.append(len(inputs["labels"]))
        loss = step(model, inputs, *rest)
        if len(sizes) == 2:
            trainer.seen.clear()
            raise RuntimeError("CUDA out of memory.")
        return loss

    trainer.training_step = too_large
    trainer.train()
    assert sizes[0] > sizes[2] and sum(sizes[2:]) == 3 * IMAGES
    assert trainer.model.label_counts.sum() == IMAGES
    assert trainer.model.noise_layer.progress[1] == 2


def test_a_compiled_model_is_compiled_once_for_training_and_once_for_evaluation(tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ends = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = build(Trainer, tmp_path, **options)
        trainer.train()
        ends.append(trainer.model.state_dict())
    assert torch._dynamo.utils.counters["frames"]["ok"] == 2
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value)


REFUSED = {
    "neftune_noise_alpha": (
        {"neftune_noise_alpha": 5.0},
        "`neftune_noise_alpha` to be None, but got 5.0.*no embeddings",
    ),
    "label_names": (
        {"label_names": ["fine_label"]},
        r"`label_names` to have 'labels'.*\['fine_label'\].*rename_column",
    ),
    "no label_names": ({"label_names": []}, r"`label_names` to have 'labels'"),
}


@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_work_is_one_sentence_before_the_training(name, trainer_class, tmp_path):
    options, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        build(trainer_class, tmp_path, timm_model(tmp_path), **options)


def timm_model(folder):
    return NoisyForImageClassification.from_backbone(
        saved_timm(folder / "timm", "test_vit"), noise=ACTS_SOON, id2label=NAMES
    )


def table(**columns):
    """Rows of `datasets`: labels, and what else is asked for."""
    rows = [Images()[index] for index in range(IMAGES)]
    labels = [int(row["labels"]) for row in rows]
    pixels = {"pixel_values": [row["pixel_values"].numpy() for row in rows]}
    return Table.from_dict({name: labels for name in columns.get("labels", ["label"])} | pixels).with_format("torch")


@pytest.mark.parametrize("build_model", [lambda folder: noisy_vit(ACTS_SOON), timm_model], ids=["vit", "timm"])
@pytest.mark.parametrize("options", [{"label_names": ["labels", "clean"]}, {"remove_unused_columns": False}])
def test_a_second_label_is_for_the_metrics(options, build_model, tmp_path):
    data, found = table(labels=["labels", "clean"]), []
    trainer = Trainer(
        build_model(tmp_path),
        arguments(tmp_path, eval_strategy="epoch", **options),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda prediction: found.append(prediction.label_ids) or {},
    )
    trainer.train()
    assert trainer.model.label_counts.sum() == IMAGES
    assert len(found[-1]) == (2 if "label_names" in options else IMAGES)


def prepare(rows):
    return {"pixel_values": torch.stack([torch.as_tensor(image) for image in rows["image"]]), "labels": rows["label"]}


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_images_that_the_trainer_takes_away_are_one_sentence(trainer_class, tmp_path):
    data = table().rename_column("pixel_values", "image").with_transform(prepare)
    with pytest.raises(ValueError, match=r"`remove_unused_columns` to be False.*what is left is \['label'\]"):
        trainer_class(noisy_vit(), arguments(tmp_path), train_dataset=data).train()
    trainer = trainer_class(noisy_vit(), arguments(tmp_path, remove_unused_columns=False), train_dataset=data)
    trainer.train()
    assert trainer.model.label_counts.sum() == IMAGES


class Misnamed(Images):
    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {"image": row["pixel_values"], "labels": row["labels"]}


def test_images_and_labels_under_other_names_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"Expected `pixel_values`.*under that name\. What"):
        Trainer(noisy_vit(), arguments(tmp_path), train_dataset=Misnamed()).train()
    args = arguments(tmp_path, remove_unused_columns=False)
    with pytest.raises(ValueError, match="no images under that name beside 'image'"):
        Trainer(noisy_vit(), args, train_dataset=Misnamed()).train()
    with pytest.raises(ValueError, match=r"got None beside 'fine'.*rename theirs"):
        Trainer(noisy_vit(), args, train_dataset=table(labels=["fine"])).train()


class OwnLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits, inputs["labels"], weight=torch.tensor([1.0, 2.0, 1.0]))
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("trainer_class", [OwnLoss, *TRAINERS])
def test_a_loss_past_the_layer_is_noticed(trainer_class, tmp_path, caplog):
    args = arguments(tmp_path, gradient_accumulation_steps=2, eval_strategy="epoch")
    trainer_class(noisy_vit(ACTS_SOON), args, train_dataset=Images(), eval_dataset=Images(VALIDATED)).train()
    assert caplog.text.count("Have it return `outputs.loss`") == (trainer_class is OwnLoss)


def adapted():
    chosen = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"])
    return get_peft_model(noisy_vit(PAPER), chosen)


def test_a_model_init_that_makes_an_adapter(tmp_path):
    trainer = NoisyTrainer(model_init=adapted, args=arguments(tmp_path), train_dataset=Images())
    before = noisy_model_inside(trainer.model).noise_layer.weight.detach().clone()
    trainer.train()
    assert not torch.equal(noisy_model_inside(trainer.model).noise_layer.weight, before), "it learns by gradients"
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "noise_layer.safetensors").is_file()
    with pytest.raises(ValueError, match=r"`model_init` made it.*use NoisyTrainer"):
        Trainer(model_init=adapted, args=arguments(tmp_path), train_dataset=Images()).train()
