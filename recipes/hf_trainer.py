"""Fine-tune through a noise layer with the plain transformers Trainer, and keep a clean model.

When: you live in transformers rather than in Lightning.
Needs: images in folders (photos/CLASS/*.jpg), a data set on the Hub, or Parquet files with an image and a label column.
  A file that can't be read ends the training where it comes up: `lightning-noisy init photos/` names such files first.
Change: --data and --backbone; every option of transformers.TrainingArguments can be given too.

    python recipes/hf_trainer.py --data photos/ --backbone timm/resnet50.a1_in1k --output_dir runs/hf --license mit
    torchrun --nproc_per_node 2 recipes/hf_trainer.py ...    # the same options, several GPUs (or processes on a CPU)
    accelerate launch recipes/hf_trainer.py ...              # as `accelerate config` says
    ... --refine                     # many wrong labels, a backbone that is already good at such images
    ... --eval_strategy no           # else a tenth of the images says in each epoch what is learned by heart
    ... --resume_from_checkpoint true                        # goes on from the newest checkpoint in --output_dir

What is measured goes to metrics.csv and training_curves.png in --output_dir and to W&B, in files where there is no key
(--report_to none: not).
"""

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import timm
import torch
import wandb
from datasets import ClassLabel, DatasetDict, load_dataset
from rich.console import Console
from transformers import (
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from lightning_noisy import NoiseConfig, models, refine_labels
from lightning_noisy.cli.upstream_messages import silence_bars_of_transformers
from lightning_noisy.export.noise_estimate import estimate_noise
from lightning_noisy.hf import NoisyForImageClassification
from lightning_noisy.hub import export_clean
from lightning_noisy.pictures import draw_training_curves
from lightning_noisy.run_record import as_numbers
from lightning_noisy.run_summary import run_summary
from lightning_noisy.training.loggers.wandb_runs import (
    PROJECT,
    new_run_id,
    recipe_name,
    run_name,
    run_settings,
    start_run,
)


@dataclass
class Options:
    """What this script needs beside the training arguments."""

    data: str = field(metadata={"help": "A folder of images, a folder or file of Parquet, or a data set on the Hub."})
    backbone: str = field(
        default="google/vit-base-patch16-224-in21k", metadata={"help": "A repository or a folder of a classifier."}
    )
    label_column: str = field(default="label", metadata={"help": "The column of the given labels."})
    clean_label_column: str | None = field(default=None, metadata={"help": "Checked labels, for the evaluation only."})
    warmup_epochs_of_noise: int | None = field(
        default=None, metadata={"help": "Epochs of cross-entropy before the layer acts; worked out by default."}
    )
    validation_share: float = field(
        default=0.1, metadata={"help": "Of the training images, held out with their given labels."}
    )
    refine: bool = field(
        default=False, metadata={"help": "Train on what the pretrained features say of the labels, not on these."}
    )
    augmentation: bool = field(default=True, metadata={"help": "Crop, flip and recolour the training images."})
    cross_entropy: bool = field(default=False, metadata={"help": "Train without a noise layer, to compare."})
    license: str | None = field(default=None, metadata={"help": "Of the clean model, which is then exported."})


def load_data(options: Options) -> tuple[DatasetDict, list[str]]:
    """The splits ``train``, ``test`` and, for the evaluations while it trains, ``validation``; and the class names."""
    path = Path(options.data)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        files = {"train": str(path)} if path.is_file() else {f.stem: str(f) for f in path.glob("*.parquet")}
        data = load_dataset("parquet", data_files=files)
    else:
        data = load_dataset("imagefolder", data_dir=str(path)) if path.is_dir() else load_dataset(options.data)
    if not isinstance(data["train"].features[options.label_column], ClassLabel):
        data = data.class_encode_column(options.label_column)
    if "test" not in data:
        held_out = data["train"].train_test_split(0.1, seed=0, stratify_by_column=options.label_column)
        data = DatasetDict(train=held_out["train"], test=held_out["test"])
    if "validation" not in data and options.validation_share:
        held_out = data["train"].train_test_split(options.validation_share, seed=0)
        data = DatasetDict(train=held_out["train"], validation=held_out["test"], test=data["test"])
    return data, data["train"].features[options.label_column].names


def prepare(data: DatasetDict, model: NoisyForImageClassification, options: Options) -> DatasetDict:
    """Images as the backbone wants them, augmented for training; checked labels, where there are any, for the test."""
    config = models.resolve_data_config(model.backbone)
    labels = dict.fromkeys(("train", "validation"), options.label_column)
    labels["test"] = options.clean_label_column or options.label_column

    def on_the_fly(split: str) -> Any:
        is_random = split == "train" and options.augmentation
        transform = timm.data.create_transform(**config, is_training=is_random)

        def apply(rows: dict[str, list]) -> dict[str, list]:
            pixels = [transform(image.convert("RGB")) for image in rows["image"]]
            soft = {"soft_targets": rows["soft_targets"]} if "soft_targets" in rows else {}
            return {"pixel_values": pixels, "labels": rows[labels[split]], **soft}

        return apply

    if options.refine:
        refined = refine_labels(model, data["train"].with_transform(on_the_fly("validation")))
        if refined.soft_labels is not None:
            train = data["train"].add_column("soft_targets", refined.soft_labels.tolist())
            data = DatasetDict({**data, "train": train})
    return DatasetDict({split: data[split].with_transform(on_the_fly(split)) for split in labels if split in data})


def accuracy(kind: str) -> Callable[[EvalPrediction], dict[str, float]]:
    """The share of right answers, under a name that says which labels it is against."""
    return lambda found: {f"accuracy_{kind}": float((found.predictions.argmax(1) == found.label_ids).mean())}


class MetricsFile(TrainerCallback):
    """Keeps all that was logged, before a resume too, as ``metrics.csv``."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        names = dict.fromkeys(name for row in state.log_history for name in row)
        with open(Path(args.output_dir) / "metrics.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(state.log_history)

    on_evaluate = on_train_end = on_epoch_end


def start_wandb(args: TrainingArguments, goes_on: bool) -> None:
    """Starts the W&B run that the Trainer then writes to; a training that goes on goes on in its run."""
    if "wandb" not in args.report_to or args.process_index != 0:
        return
    place = Path(args.output_dir) / "wandb_run_id"
    place.parent.mkdir(parents=True, exist_ok=True)
    run_id = place.read_text(encoding="utf-8") if goes_on and place.is_file() else new_run_id()
    run_id = os.environ.get("WANDB_RUN_ID", run_id)
    place.write_text(run_id, encoding="utf-8")
    recipe = recipe_name([__file__])
    options = {
        "id": run_id,
        "name": args.run_name or run_name(recipe, run_id),
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "dir": args.output_dir,
        "config": {"recipe": recipe},
    }
    if start_run(lambda mode: wandb.init(mode=mode, resume="allow", settings=run_settings(), **options)) is None:
        args.report_to.remove("wandb")


def tell_the_end(trainer: Trainer, metrics: dict[str, float], options: Options) -> None:
    """Draws the course of the training; prints what came out, where it lies, and what to type next."""
    output, record = Path(str(trainer.args.output_dir)), trainer.model.run_record
    places = {"logs": str(output)}
    if draw_training_curves(output / "training_curves.png", record.history):
        places["curves"] = str(output / "training_curves.png")
    if options.license:
        places["clean model"] = str(output / "clean")
    commands = []
    if checkpoint := get_last_checkpoint(str(output)):
        places["last checkpoint"] = checkpoint
        source = options.data if Path(options.data).exists() else f"hub:{options.data}"
        commands = [
            f"lightning-noisy audit --ckpt_path {quote(checkpoint)} --data.source {quote(source)} --output audit",
            f"lightning-noisy export --ckpt_path {quote(checkpoint)} --output clean --license apache-2.0",
        ]
    measured = {n: v for n, v in as_numbers(metrics).items() if not n.endswith(("_runtime", "_per_second", "epoch"))}
    layer, names = trainer.model.noise_layer, list(trainer.model.config.id2label.values())
    if (estimate := estimate_noise(layer, record.label_counts, names)) is not None:
        measured |= {"noise/estimated_rate": estimate.rate, "noise/share": layer.share}
    measured = {**record.metrics, **measured}
    summary = run_summary(measured, record.epochs, record.steps, record.seconds, places, commands)
    Console().print(summary, soft_wrap=True)


def run(arguments: list[str]) -> dict[str, float]:
    """Trains, evaluates, exports; returns the metrics."""
    parser = HfArgumentParser((Options, TrainingArguments))
    parser.set_defaults(report_to="wandb", logging_steps=20)  # the logs of an epoch or so are a point of the curves
    parser.set_defaults(dataloader_pin_memory=torch.cuda.is_available())  # else torch warns of it in each epoch
    parser.set_defaults(eval_strategy="epoch")
    options, args = parser.parse_args_into_dataclasses(arguments)
    silence_bars_of_transformers()
    args.remove_unused_columns = False  # the transform needs the image column
    data, names = load_data(options)
    torch.manual_seed(args.seed)  # of a new head
    warmup_epochs = "auto" if options.warmup_epochs_of_noise is None else options.warmup_epochs_of_noise
    model = NoisyForImageClassification.from_backbone(
        options.backbone,
        noise=None if options.cross_entropy else NoiseConfig(warmup_epochs=warmup_epochs),
        id2label=dict(enumerate(names)),
    )
    splits = prepare(data, model, options)
    if "validation" not in splits and args.eval_strategy != "no":
        print("No evaluation while it trains: the data have no split `validation` and --validation_share is 0.")
        args.eval_strategy = "no"
    # HfArgumentParser leaves a string; the Trainer wants a bool for the newest checkpoint.
    resume = {"true": True, "false": None}.get(str(args.resume_from_checkpoint).lower(), args.resume_from_checkpoint)
    start_wandb(args, goes_on=bool(resume))
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        # Never the test images: an evaluation in each epoch tells what is learned by heart.
        eval_dataset=splits.get("validation"),
        compute_metrics=accuracy("noisy"),
        callbacks=[MetricsFile()],
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.compute_metrics = accuracy("clean" if options.clean_label_column else "noisy")
    metrics = trainer.evaluate(splits["test"], metric_key_prefix="test")
    trainer.save_model()
    if trainer.is_world_process_zero():
        if options.license:
            export_clean(model, Path(args.output_dir) / "clean", license=options.license, overwrite=True)
        tell_the_end(trainer, metrics, options)
    wandb.finish()
    trainer.accelerator.end_training()  # leaves the group of processes in order
    return metrics


if __name__ == "__main__":
    run(sys.argv[1:])
