"""What a GPU is fast at, for gpu.sh: the layer's overhead by classes, and throughput beside timm and transformers.

    python benchmarks/gpu_parts.py overhead --output FILE
    python benchmarks/gpu_parts.py throughput --output FILE
    python benchmarks/gpu_parts.py report --output FILE
    python benchmarks/gpu_parts.py throughput --device cpu --tiny --output FILE    # to see that it runs

Each measurement is a line of JSON; one that is there is not repeated. Images are made on the device, so that loading
them is no part of it. MFU is three times the operations of a forward pass over the time and 990 TFLOP/s, the dense bf16
peak that the vendor gives for an H100 or H200.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.noise.objective import noisy_objective

PEAK = 990e12
IDENTITY = ("part", "what", "classes", "network")
"""What tells a measurement from the others."""
CLASSES = (10, 100, 1_000, 10_000)
NETWORKS = {"ResNet-50": "resnet50", "ViT-B/16": "vit_base_patch16_224"}
WARMUP, WINDOWS, STEPS = 5, 3, 8


def clock(run: Callable[[], Any], device: str, repeats: int = 30) -> float:
    """Median seconds of a call, the device waited for."""
    times = []
    for number in range(repeats + 5):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if number >= 5:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def overhead(device: str, tiny: bool, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Microseconds of loss and gradient for a batch of 256, beside plain cross-entropy."""
    for num_classes in CLASSES[:1] if tiny else CLASSES:
        logits = torch.randn(256, num_classes, device=device, requires_grad=True)
        labels = torch.randint(num_classes, (256,), device=device)
        counts = torch.eye(num_classes) * 50 + 3 / num_classes
        default = NoiseLayer(num_classes)
        default.update_from_counts(counts)
        paper = NoiseLayer(NoiseConfig.paper(num_classes))
        losses = {"cross-entropy": None, "noise layer": default.to(device), "layer as published": paper.to(device)}
        for name, layer in losses.items():
            measurement: dict[str, Any] = {"part": "overhead", "what": name, "classes": num_classes}
            if not _is_done(measurement, done):
                step = partial(_loss_and_gradient, layer, logits, labels)
                yield {**measurement, "microseconds": round(1e6 * clock(step, device), 1)}


def _loss_and_gradient(layer: NoiseLayer | None, logits: Tensor, labels: Tensor) -> None:
    loss = F.cross_entropy(logits, labels) if layer is None else noisy_objective(layer, logits, labels)
    loss.backward()


def throughput(device: str, tiny: bool, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Images per second of a training in bf16."""
    for title, name in NETWORKS.items():
        name, side, batch = ("test_resnet" if tiny else name), (32 if tiny else 224), (8 if tiny else 256)
        operations = 3 * _forward_operations(name, side, device)
        for arm, measure in ARMS.items():
            measurement: dict[str, Any] = {"part": "throughput", "what": arm, "network": title}
            if _is_done(measurement, done):
                continue
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            rate = measure(name, side, batch, device)
            memory = round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None
            speed = {"images_per_second": round(rate, 1), "mfu": round(rate * operations / PEAK, 4)}
            yield {**measurement, "batch": batch, **speed, "memory_gb": memory}


def _is_done(measurement: dict[str, Any], done: list[dict[str, Any]]) -> bool:
    return {name: measurement.get(name) for name in IDENTITY} in done


class Clock:
    """Images per second over windows of steps, the first ones left out."""

    def __init__(self, batch: int, device: str) -> None:
        self.batch, self.device, self.steps, self.rates, self.start = batch, device, 0, [], 0.0

    def step(self) -> bool:
        """To be called after each step; whether that was enough."""
        self.steps += 1
        if (self.steps - WARMUP) % STEPS == 0 and self.steps >= WARMUP:
            _wait(self.device)
            now = time.perf_counter()
            if self.steps > WARMUP:
                self.rates.append(STEPS * self.batch / (now - self.start))
            self.start = now
        return len(self.rates) == WINDOWS

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def by_loop(name: str, side: int, batch: int, device: str) -> float:
    """A plain loop over a timm model, cross-entropy."""
    import timm

    model = timm.create_model(name, num_classes=1000).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")
    images, labels = _images(batch, side, device)
    clock = Clock(batch, device)
    while True:
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if clock.step():
            return clock.rate


class Repeated(torch.utils.data.IterableDataset):
    """The same batch again and again."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.batch


def by_lightning(name: str, side: int, batch: int, device: str) -> float:
    """NoisyImageClassifier with its noise layer acting."""
    import lightning.pytorch as L

    from lightning_noisy import NoisyImageClassifier

    clock = Clock(batch, device)

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            clock.step()

    module = NoisyImageClassifier(
        f"timm:{name}", num_classes=1000, pretrained=False, channels_last=True,
        noise=NoiseConfig(transition_matrix=_noisy(1000), warmup_epochs=0), lr_scheduler=None,
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4, "fused": device == "cuda"}},
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Repeated(_images(batch, side, device)), batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator=device, devices=1, precision="bf16-mixed", max_steps=WARMUP + WINDOWS * STEPS,
            callbacks=[Stop()],
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(module, loader)
    return clock.rate


def by_transformers(name: str, side: int, batch: int, device: str) -> float:
    """NoisyForImageClassification in transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.models.timm_wrapper import TimmWrapperConfig, TimmWrapperForImageClassification

    from lightning_noisy.hf import NoisyForImageClassification

    clock = Clock(batch, device)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = clock.step()

    names = {label: str(label) for label in range(1000)}
    native = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, id2label=names))
    config = NoiseConfig(transition_matrix=_noisy(1000), warmup_epochs=0)
    model = NoisyForImageClassification.from_backbone(native, noise=config, id2label=names)
    images, labels = _images(batch, side, "cpu")
    rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]
    kept = {"pixel_values": images.to(device), "labels": labels.to(device)}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=WARMUP + WINDOWS * STEPS + 1, per_device_train_batch_size=batch, bf16=True,
            use_cpu=device == "cpu", report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            optim="adamw_torch_fused" if device == "cuda" else "adamw_torch", dataloader_pin_memory=False,

        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=lambda _: kept, callbacks=[Stop()])
        trainer.train()
    return clock.rate


ARMS = {
    "timm loop": by_loop,
    "Lightning, noise layer": by_lightning,
    "transformers, noise layer": by_transformers,
}


def report(lines: list[dict[str, Any]], path: Path) -> None:
    """The tables; what failed is named with its last line."""
    facts = next((line for line in lines if line["part"] == "machine"), {})
    text = [
        "# On a GPU",
        "",
        "Written by `benchmarks/gpu.sh` on " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "part"),
    ]
    for part in sorted({line["part"] for line in lines} - {"machine"}):
        rows = [line for line in lines if line["part"] == part]
        names = list(dict.fromkeys(name for row in rows for name in row if name != "part"))
        text += ["", f"## {part}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        text += [f"| {' | '.join(str(row.get(name, '')) for name in names)} |" for row in rows]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def machine(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "a CPU"
    return {"part": "machine", "device": name, "torch": torch.__version__, "CUDA": torch.version.cuda}


def _images(batch: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(1000, (batch,), device=device)


def _noisy(num_classes: int) -> list[list[float]]:
    return (0.8 * torch.eye(num_classes) + 0.2 / num_classes).tolist()


def _forward_operations(name: str, side: int, device: str) -> float:
    import timm
    from torch.utils.flop_counter import FlopCounterMode

    model: nn.Module = timm.create_model(name, num_classes=1000).to(device).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side, device=device))
    return float(counter.get_total_flops())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["overhead", "throughput", "report"])
    parser.add_argument("--output", type=Path, required=True, help="the results, lines of JSON")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a smoke run")
    options = parser.parse_args(arguments)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    if options.part == "report":
        report(lines, options.output.with_suffix(".md"))
        return
    done = [{name: line.get(name) for name in IDENTITY} for line in lines]
    found = {"overhead": overhead, "throughput": throughput}[options.part](options.device, options.tiny, done)
    with options.output.open("a") as file:
        if not any(line["part"] == "machine" for line in lines):
            file.write(json.dumps(machine(options.device)) + "\n")
        for line in found:
            print(line, flush=True)
            file.write(json.dumps(line) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
