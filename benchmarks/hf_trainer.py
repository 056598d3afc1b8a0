"""recipes/hf_trainer.py on handwritten digits, with the noise layer and without, over seeds; a line of JSON a run.

    python benchmarks/hf_trainer.py --seeds 3

The data and the network of `make demo` (46% of the labels wrong, timm's resnet10t from random weights, 12 epochs),
trained by the plain transformers Trainer. A run that is already in the results file is not repeated. Accuracies are on
clean test labels after the last epoch.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from rich.console import Console
from rich.table import Table

from lightning_noisy import NoisyImageDataModule, models

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "hf_trainer.py"
NOISE = "uniform:0.5"
ARMS = {
    "noise layer": [],
    "noise layer, without a validation": ["--validation_share=0"],
    "cross-entropy": ["--cross_entropy=true", "--validation_share=0"],
}
"""A validation takes a tenth of the images away; cross-entropy has no use for one."""
OPTIONS = ["--num_train_epochs=12", "--per_device_train_batch_size=64", "--learning_rate=1e-3", "--weight_decay=0.01"]
OPTIONS += ["--lr_scheduler_type=cosine", "--augmentation=false", "--report_to=none", "--disable_tqdm=true"]
OPTIONS += ["--save_strategy=no"]
OPTIONS += ["--use_cpu=true", "--clean_label_column=clean", "--max_grad_norm=0"]


def write_digits(folder: Path, seed: int) -> None:
    """The digits as Parquet, with given and clean labels."""
    splits = NoisyImageDataModule("digits", noise=NOISE, seed=seed, val_fraction=0.0).splits
    names = splits["train"].class_names
    features = Features({"image": Image(), "label": ClassLabel(names=names), "clean": ClassLabel(names=names)})
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        columns = {"label": images.noisy_labels.tolist(), "clean": images.clean_labels.tolist()}
        rows = {"image": [images.read(index) for index in range(len(images))], **columns}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


def write_backbone(folder: Path, seed: int) -> None:
    """The network of the demo, from random weights."""
    import torch

    torch.manual_seed(seed)
    model = models.build_backbone("timm:resnet10t", 10, pretrained=False, image_size=32)
    models.save_backbone(model, folder)


def measure(run, arm: str, seed: int, folder: Path) -> dict:
    """One training; its line of the results."""
    places = [f"--data={folder / 'digits'}", f"--backbone={folder / 'backbone'}", f"--output_dir={folder / 'run'}"]
    start = time.perf_counter()
    metrics = run([*places, *OPTIONS, f"--seed={seed}", *ARMS[arm]])
    seconds = round(time.perf_counter() - start)
    return {
        "arm": arm,
        "seed": seed,
        "test_accuracy_clean": round(metrics["test_accuracy_clean"], 4),
        "seconds": seconds,
    }


def show(lines: list[dict]) -> None:
    """Prints the mean and the spread of each arm."""
    table = Table("loss", "clean test accuracy", "seeds", "seconds")
    for arm in ARMS:
        found = [line for line in lines if line["arm"] == arm]
        if found:
            accuracies = [line["test_accuracy_clean"] for line in found]
            spread = f"{np.mean(accuracies):.3f} ± {np.std(accuracies):.3f}"
            table.add_row(arm, spread, str(len(found)), f"{np.mean([line['seconds'] for line in found]):.0f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "hf_trainer.jsonl", help="the results file")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/hf_trainer"), help="for data, backbone and runs")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("hf_trainer_recipe", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    done = {(line["arm"], line["seed"]) for line in lines}
    for seed in range(options.seeds):
        folder = options.work_dir / str(seed)
        for arm in ARMS:
            if (arm, seed) not in done:
                write_digits(folder / "digits", seed)
                write_backbone(folder / "backbone", seed)
                lines.append(measure(recipe.run, arm, seed, folder))
                with options.output.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    show(lines)


if __name__ == "__main__":
    main()
