"""Images per second and memory of `lightning-noisy fit`, of a loop like timm's train.py and of the HF Trainer.

    python benchmarks/throughput.py              # twenty minutes on two CPU cores; on a GPU ResNet-50 and ViT-B/16
    python benchmarks/throughput.py --bf16 --compile --channels-last --fused
    python benchmarks/throughput.py --quick      # one small round, to see that it runs

The same backbone from random weights, images (JPEG files of 256 px that it writes itself), augmentation, workers,
precision, batch size, AdamW and cosine schedule for all three; ours has the noise layer on top. Every training is a
process of its own, the three take turns, and the first steps do not count. A training that is already in the results
file, measured on the same machine, is not repeated: one line of JSON each.

Peak memory is that of the training process, on a CPU with what its loader's workers hold beside it. The part for GPUs,
with the share of the peak FLOPs (MFU, with --bf16), has not been tried on one yet.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from throughput_arms import ARMS, Setting
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
CLASSES = 10
SIDE = 256
OURS = "lightning-noisy fit"
QUICK = [Setting("test_resnet", 64, 4, workers=1)]
ON_CPU = [
    Setting("resnet18", 64, 32, workers=0),
    Setting("mobilenetv3_small_100", 112, 32, workers=2),
    Setting("vit_tiny_patch16_224", 112, 16, workers=2),
]
ON_GPU = [
    Setting("resnet50", 224, 128, workers=min(16, os.cpu_count() or 1)),
    Setting("vit_base_patch16_224", 224, 128, workers=min(16, os.cpu_count() or 1)),
]
PEAK_FLOPS_BF16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense, from the data sheets; the first name that the device's contains counts."""


def machine() -> str:
    """The model of the GPU, or of the CPU and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def write_photos(folder: Path, count: int) -> Path:
    """``count`` JPEG files in class folders: soft blobs under fine grain, about as large as photos of their size."""
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number:06}.jpg"
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(number)
        blobs = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        grain = generator.normal(0, 12, (SIDE, SIDE, 1))
        Image.fromarray((np.asarray(blobs) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def flops_per_image(setting: Setting) -> int:
    """Of the forward and the backward pass of the backbone; a multiplication and an addition are two."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(setting.backbone, num_classes=CLASSES, **setting.model_kwargs)
        images = torch.empty(2, 3, setting.image_size, setting.image_size)
    counter = FlopCounterMode(display=False)
    with counter:
        model(images).sum().backward()
    return counter.get_total_flops() // len(images)


def measure(setting: Setting, arm: str, options: argparse.Namespace) -> dict:
    """One training in a process of its own; its line of the results."""
    count = (options.steps + options.warmup_steps) * setting.batch_size
    photos = write_photos(options.work_dir / f"photos{count}", count)
    log = options.work_dir / "arm.log"
    task, result = options.work_dir / "task.json", options.work_dir / "result.json"
    result.unlink(missing_ok=True)
    places = {"photos": str(photos.absolute()), "work": str((options.work_dir / "run").absolute())}
    lengths = {"warmup_steps": options.warmup_steps, "steps": options.steps}
    task.write_text(json.dumps({"arm": arm, "setting": asdict(setting), **places, **lengths}))
    own = {"HF_DATASETS_CACHE": options.work_dir / "cache", "LIGHTNING_NOISY_CACHE": options.work_dir / "scan"}
    with log.open("w") as file:
        ran = subprocess.run(
            [sys.executable, str(HERE / "throughput_arms.py"), str(task), str(result)],
            env={**os.environ, "HF_HUB_OFFLINE": "1", **{name: str(path.absolute()) for name, path in own.items()}},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if ran.returncode or not result.is_file():
        sys.exit(f"{arm} ended with status {ran.returncode} ({log}):\n{log.read_text()[-3000:]}")
    return json.loads(result.read_text())


def peak_flops(device_name: str) -> float | None:
    """What a GPU can do in bfloat16 in a second, where that is known."""
    return next((peak for name, peak in PEAK_FLOPS_BF16.items() if name in device_name), None)


def model_flops_utilisation(setting: Setting, images_per_second: float, device_name: str) -> dict:
    """Share of the GPU's peak that the model's own operations make up; nothing where the peak is not known."""
    peak = peak_flops(device_name)
    if peak is None or not setting.bf16:
        return {}
    return {"mfu": round(flops_per_image(setting) * images_per_second / peak, 4)}


def cells(settings: list[Setting], repeats: int) -> Iterator[tuple[Setting, int, str]]:
    """Every training; the arms take turns, and each goes first in one of the repeats."""
    for repeat in range(repeats):
        for setting in settings:
            first = repeat % len(ARMS)
            for arm in [*ARMS][first:] + [*ARMS][:first]:
                yield setting, repeat, arm


def show(lines: list[dict], settings: list[Setting]) -> None:
    """Prints mean and standard deviation over the repeats; the ratio is that to the faster of the two others."""
    for setting in settings:
        found = {
            arm: [line for line in lines if line["arm"] == arm and line["setting"] == asdict(setting)] for arm in ARMS
        }
        title = f"{setting.backbone}, {setting.image_size} px, batch {setting.batch_size}, {_rest(setting)}"
        table = Table("", "images/s", "ours / faster", "waiting", "peak MB", "MFU", title=title, title_justify="left")
        speeds = {arm: np.array([line["images_per_second"] for line in part]) for arm, part in found.items() if part}
        for arm, values in speeds.items():
            others = [other.mean() for name, other in speeds.items() if name != OURS]
            ratio = f"{values.mean() / max(others):.3f}" if arm == OURS and others else ""
            table.add_row(arm, f"{values.mean():.1f} ± {values.std():.1f}", ratio, *_means(found[arm]))
        Console().print(table)


def _means(lines: list[dict]) -> list[str]:
    def mean(name: str) -> float:
        return float(np.mean([line[name] for line in lines if name in line]))

    on_gpu = "peak_gpu_memory_mb" in lines[0]
    memory = mean("peak_gpu_memory_mb" if on_gpu else "peak_memory_mb")
    workers = "" if on_gpu else f" + {mean('workers_memory_mb'):.0f}"
    mfu = f"{mean('mfu'):.1%}" if "mfu" in lines[0] else ""
    return [f"{mean('share_waiting_for_data'):.1%}", f"{memory:.0f}{workers}", mfu]


def _rest(setting: Setting) -> str:
    flags = [name for name in ("bf16", "compile", "channels_last", "fused") if getattr(setting, name)]
    return ", ".join([f"{setting.workers} workers", *flags])


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--steps", type=int, help="steps that count; by default 30 on a CPU, 100 on a GPU")
    parser.add_argument("--warmup-steps", type=int, default=8, help="steps before, that do not")
    parser.add_argument("--quick", action="store_true", help="a tiny network, few steps, once; not kept by default")
    parser.add_argument("--bf16", action="store_true", help="mixed precision, bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--channels-last", action="store_true", help="images and convolutions in NHWC")
    parser.add_argument("--fused", action="store_true", help="AdamW in one kernel")
    parser.add_argument("--output", type=Path, help="the results file, benchmarks/results/throughput.jsonl by default")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/throughput"), help="for images and runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.steps, options.warmup_steps = 1, 4, 2
    options.steps = options.steps or (100 if torch.cuda.is_available() else 30)
    default = options.work_dir / "quick.jsonl" if options.quick else HERE / "results" / "throughput.jsonl"
    options.output = options.output or default
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    flags = {name: getattr(options, name) for name in ("bf16", "compile", "channels_last", "fused")}
    chosen = QUICK if options.quick else ON_GPU if torch.cuda.is_available() else ON_CPU
    settings = [Setting(**{**asdict(setting), **flags}) for setting in chosen]
    for folder in (options.work_dir, options.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    lines = [line for line in lines if line["machine"] == machine()]
    done = [(line["setting"], line["repeat"], line["arm"]) for line in lines]
    for setting, repeat, arm in cells(settings, options.repeats):
        if (asdict(setting), repeat, arm) in done:
            continue
        measured = measure(setting, arm, options)
        mfu = model_flops_utilisation(setting, measured["images_per_second"], machine())
        what = {"arm": arm, "setting": asdict(setting), "repeat": repeat}
        when = {"machine": machine(), "date": datetime.date.today().isoformat(), "torch": torch.__version__}
        lines.append({**what, **measured, **mfu, **when})
        with options.output.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(f"{_rest(setting)} {setting.backbone} {arm}: {measured['images_per_second']:.1f} images/s", flush=True)
    show(lines, settings)


if __name__ == "__main__":
    main()
