"""The three trainings that throughput.py compares, each for a process of its own, and the clock that they share."""

import json
import resource
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import psutil
import torch
from torch.utils.data.dataloader import _BaseDataLoaderIter

LOG_EVERY = 50
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
MEBI = 2**20


@dataclass(frozen=True)
class Setting:
    """What all arms have in common."""

    backbone: str
    image_size: int
    batch_size: int
    workers: int
    bf16: bool = False
    compile: bool = False
    channels_last: bool = False
    fused: bool = False

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """What timm needs to build the backbone for this size."""
        return {"img_size": self.image_size} if self.backbone.startswith("vit") else {}


class Clock:
    """Counts images and time from the end of the warm-up on; the waiting for data apart.

    Args:
        warmup_steps: Steps that do not count.
        steps: Steps that do.
    """

    def __init__(self, warmup_steps: int, steps: int) -> None:
        self.warmup_steps, self.steps = warmup_steps, steps
        self.steps_done = self.images = 0
        self.seconds_waited = 0.0
        self.result: dict[str, Any] = {}
        self._time_every_loader()

    def step(self, images: int) -> None:
        """To be called after each step of the optimizer."""
        self.steps_done += 1
        if self.steps_done > self.warmup_steps:
            self.images += images
        if self.steps_done == self.warmup_steps:
            self._start, self.seconds_waited = _now(), 0.0
        if self.steps_done == self.warmup_steps + self.steps:
            self.result = self._measured(_now() - self._start)

    def _measured(self, seconds: float) -> dict[str, Any]:
        workers = [process.memory_info().rss for process in psutil.Process().children(recursive=True)]
        found = {
            "images": self.images,
            "seconds": round(seconds, 3),
            "images_per_second": round(self.images / seconds, 2),
            "share_waiting_for_data": round(self.seconds_waited / seconds, 4),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _unit_of_maxrss() / MEBI),
            "workers_memory_mb": round(sum(workers) / MEBI),
        }
        if torch.cuda.is_available():
            found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / MEBI)
        return found

    def _time_every_loader(self) -> None:
        """All three arms read through torch's DataLoader, whose ``__next__`` is where a training waits."""
        fetch = _BaseDataLoaderIter.__next__

        def timed_fetch(iterator: Any) -> Any:
            start = time.perf_counter()
            try:
                return fetch(iterator)
            finally:
                self.seconds_waited += time.perf_counter() - start

        _BaseDataLoaderIter.__next__ = timed_fetch


class ClockCallback(L.Callback):
    """The :class:`Clock` of a Lightning training."""

    def __init__(self, warmup_steps: int, steps: int) -> None:
        self.clock = Clock(warmup_steps, steps)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.step(len(batch))


def lightning_noisy_fit(setting: Setting, photos: Path, work: Path, warmup_steps: int, steps: int) -> Clock:
    """The command ``lightning-noisy fit``, with a noise layer that acts from the first step on."""
    from lightning_noisy.cli.lightning_cli import main

    words = {
        "model.backbone": f"timm:{setting.backbone}",
        "model.pretrained": "false",
        "model.image_size": setting.image_size,
        "model.noise.warmup_epochs": 0,
        "model.optimizer": "torch.optim.AdamW",
        "model.optimizer.lr": LEARNING_RATE,
        "model.optimizer.weight_decay": WEIGHT_DECAY,
        "data.source": photos,
        "data.val_fraction": 0,
        "data.batch_size": setting.batch_size,
        "data.num_workers": setting.workers,
        "trainer.max_epochs": 1,
        "trainer.log_every_n_steps": LOG_EVERY,
        "trainer.enable_checkpointing": "false",
        "trainer.default_root_dir": work,
        "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
        "trainer.logger.save_dir": work,
        "trainer.callbacks": "throughput_arms.ClockCallback",
        "trainer.callbacks.warmup_steps": warmup_steps,
        "trainer.callbacks.steps": steps,
    }
    words |= {"model.optimizer.fused": "true"} if setting.fused else {}
    words |= {"model.compile": "true"} if setting.compile else {}
    words |= {"model.channels_last": "true"} if setting.channels_last else {}
    words |= {"trainer.precision": "bf16-mixed"} if setting.bf16 else {}
    cli = main(["fit", *(f"--{name}={value}" for name, value in words.items())])
    return next(callback.clock for callback in cli.trainer.callbacks if isinstance(callback, ClockCallback))


def timm_loop(setting: Setting, photos: Path, work: Path, warmup_steps: int, steps: int) -> Clock:
    """The training of timm's ``train.py``, which its wheel lacks: the same public parts in the same order."""
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = create_dataset("", root=str(photos))
    model = timm.create_model(setting.backbone, num_classes=len(_class_names(photos)), **setting.model_kwargs)
    config = resolve_data_config({"img_size": setting.image_size}, model=model)
    model.to(device)
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(
        model, opt="adamw", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, **({"fused": True} if setting.fused else {})
    )
    loader = create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=setting.batch_size,
        is_training=True,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=setting.workers,
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=setting.workers > 0,
    )
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=1, step_on_epochs=False, updates_per_epoch=len(loader)
    )
    if setting.compile:
        model = torch.compile(model)
    autocast = torch.autocast(device.type, torch.bfloat16) if setting.bf16 else nullcontext()
    loss_of = torch.nn.CrossEntropyLoss().to(device)
    clock, losses = Clock(warmup_steps, steps), AverageMeter()
    model.train()
    for update, (images, labels) in enumerate(loader):
        if setting.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast:
            loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), len(images))
        optimizer.zero_grad()
        if update % LOG_EVERY == 0:
            print(f"{update}/{len(loader)} loss {losses.val:.4g} ({losses.avg:.3g})")
        scheduler.step_update(num_updates=update + 1, metric=losses.avg)
        clock.step(len(images))
    return clock


def hf_trainer(setting: Setting, photos: Path, work: Path, warmup_steps: int, steps: int) -> Clock:
    """The plain transformers Trainer on the same backbone, wrapped by transformers, with cross-entropy."""
    from datasets import load_dataset
    from timm.data import create_transform, resolve_data_config
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, Trainer, TrainerCallback
    from transformers import TrainingArguments as Arguments

    clock = Clock(warmup_steps, steps)

    class StepEnd(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.step(args.per_device_train_batch_size)

    names = _class_names(photos)
    model = TimmWrapperForImageClassification(
        TimmWrapperConfig(
            architecture=setting.backbone, id2label=dict(enumerate(names)), model_args=setting.model_kwargs
        )
    )
    config = resolve_data_config({"img_size": setting.image_size}, model=model.timm_model)
    transform = create_transform(**config, is_training=True)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format

    def prepare(rows: dict[str, list]) -> dict[str, list]:
        return {"pixel_values": [transform(image.convert("RGB")) for image in rows["image"]], "labels": rows["label"]}

    def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
        images = torch.stack([sample["pixel_values"] for sample in samples]).contiguous(memory_format=layout)
        return {"pixel_values": images, "labels": torch.tensor([sample["labels"] for sample in samples])}

    args = Arguments(
        str(work),
        num_train_epochs=1,
        per_device_train_batch_size=setting.batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="cosine",
        max_grad_norm=0,
        optim="adamw_torch_fused" if setting.fused else "adamw_torch",
        bf16=setting.bf16,
        torch_compile=setting.compile,
        dataloader_num_workers=setting.workers,
        dataloader_persistent_workers=setting.workers > 0,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=LOG_EVERY,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    )
    data = load_dataset("imagefolder", data_dir=str(photos))["train"].with_transform(prepare)
    Trainer(
        model.to(memory_format=layout), args, train_dataset=data, data_collator=collate, callbacks=[StepEnd()]
    ).train()
    return clock


ARMS = {"lightning-noisy fit": lightning_noisy_fit, "timm loop": timm_loop, "HF Trainer": hf_trainer}


def run_arm(arm: str, setting: Setting, photos: Path, work: Path, warmup_steps: int, steps: int) -> dict[str, Any]:
    """One training; what its clock measured.

    Raises:
        RuntimeError: If it ended before it had made all its steps.
    """
    clock = ARMS[arm](setting, photos, work, warmup_steps, steps)
    if not clock.result or clock.steps_done != warmup_steps + steps:
        raise RuntimeError(f"{arm} made {clock.steps_done} steps instead of {warmup_steps + steps}.")
    return clock.result


def _class_names(photos: Path) -> list[str]:
    return sorted(folder.name for folder in photos.iterdir() if folder.is_dir())


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _unit_of_maxrss() -> int:
    return 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """``python throughput_arms.py TASK.json RESULT.json``: the process that throughput.py starts."""
    task = json.loads(Path(sys.argv[1]).read_text())
    setting = Setting(**task.pop("setting"))
    places = {name: Path(task.pop(name)) for name in ("photos", "work")}
    Path(sys.argv[2]).write_text(json.dumps(run_arm(**task, setting=setting, **places)))


if __name__ == "__main__":
    sys.modules["throughput_arms"] = sys.modules["__main__"]  # one class ClockCallback, by whatever name
    main()
