"""What each kind of clean-up is worth: a scrape of real images, audited, cleaned of some kinds, and learned from.

    python benchmarks/audit_loop.py --data-dir DIR            # DIR as for audit_features.py
    python benchmarks/audit_loop.py --data-dir DIR --quick    # a few images, to see that it runs

CIFAR-10N with the labels `worse`; a tenth are copies of others under labels at random, a third of them of held-out
images; a twentieth digits of MNIST, a twentieth placeholders and blank or dark pictures, all under labels at random.
`audit_by_features` looks at the files, `apply` cleans them of the kinds named in each row, and a logistic regression
on the same features learns from what is left. Accuracy is on images that are in no file, by their clean labels.
"""

import argparse
import csv
import io
import json
import warnings
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pyarrow.parquet
from auditing.frozen import BACKBONES
from PIL import Image, ImageDraw
from prepare_data import FILES
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from lightning_noisy import NoisyImageDataModule, audit_by_features
from lightning_noisy.features import read_features

HERE = Path(__file__).parent
BACKBONE, SIZES = "mobilenetv2_035", {"mobilenetv2_035": 1280}
FIRST_ROW = 30_000
TEST_SPLIT = 0.2
CLEANED = {
    "nothing": [],
    "labels": ["label_issue"],
    "duplicates": ["near_duplicate"],
    "strangers": ["outlier"],
    "rubbish": ["placeholder", "low_information", "dark"],
    "labels and duplicates": ["label_issue", "near_duplicate"],
    "all": ["label_issue", "near_duplicate", "outlier", "placeholder", "low_information", "dark"],
}


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with npz files, mnist/ and weights")
    parser.add_argument("--images", type=int, default=5000, help="real images of the scrape")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds, from 0 on; 4 at most")
    parser.add_argument("--directory", type=Path, default=Path("runs/audit_loop"), help="where the scrape is written")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    options.images = 800 if options.quick else options.images
    name = "audit_loop.jsonl"
    options.output = options.output or (Path("runs") / name if options.quick else HERE / "results" / name)
    return options


def write_scrape(folder: Path, options: argparse.Namespace, seed: int) -> None:
    """Files and ``scrape.csv``; the clean labels of the held-out images are in ``held_out.json``."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    with np.load(options.data_dir / FILES["cifar10n_train"], allow_pickle=False) as arrays:
        data, offset, clean, worse = (arrays[name] for name in ("jpeg", "offset", "clean", "worse"))
        names = [str(name) for name in arrays["class_names"]]
    data = data.tobytes()
    first = FIRST_ROW + seed * options.images
    rows: list[tuple[str, str, str]] = []
    held_out = {}

    def add(image: Image.Image, name: str, label: str, split: str = "train") -> None:
        image.save(folder / name)
        rows.append((name, label, split))

    def real(row: int) -> Image.Image:
        return Image.open(io.BytesIO(data[offset[row] : offset[row + 1]])).convert("RGB")

    def drawn() -> str:
        return names[int(generator.integers(len(names)))]

    tests = int(TEST_SPLIT * options.images)
    for number in range(options.images):
        name, row = f"{number}.png", first + number
        split = "test" if number < tests else "train"
        add(real(row), name, names[(clean if split == "test" else worse)[row]], split)
        if split == "test":
            held_out[name] = names[clean[row]]
    for number in range(options.images // 10):
        row = first + int(
            generator.integers(0, tests) if number % 3 == 0 else generator.integers(tests, options.images)
        )
        image = real(row)
        add(image if number % 2 else image.resize((40, 40), Image.Resampling.BICUBIC), f"copy{number}.png", drawn())
    digits = NoisyImageDataModule(f"idx:{options.data_dir / 'mnist'}", val_fraction=0).splits["train"]
    placeholder = Image.new("RGB", (32, 32), (225, 225, 225))
    ImageDraw.Draw(placeholder).text((2, 10), "n/a", fill=(90, 90, 90))
    for number in range(options.images // 20):
        add(digits.read(1000 * seed + number), f"digit{number}.png", drawn())
        shade = tuple(int(value) for value in generator.integers(0, 256, 3))
        rubbish = (
            placeholder,
            Image.new("RGB", (32, 32), shade),
            real(first - 1 - number).point(lambda value: value // 6),
        )
        add(rubbish[number % 3], f"rubbish{number}.png", drawn())
    with open(folder / "scrape.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    (folder / "held_out.json").write_text(json.dumps(held_out))


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    for seed in range(options.seeds):
        if seed not in {line["seed"] for line in lines}:
            lines += run(options, seed)
    Console().print(table(lines), markup=False, highlight=False)


def run(options: argparse.Namespace, seed: int) -> list[dict]:
    folder = options.directory / f"{options.images}-{seed}"
    if not (folder / "held_out.json").is_file():
        write_scrape(folder, options, seed)
    data = NoisyImageDataModule(str(folder / "scrape.csv"), image_size=96, batch_size=64, num_workers=0, val_fraction=0)
    network = nn.Sequential(BACKBONES[BACKBONE](options.data_dir), nn.Linear(SIZES[BACKBONE], data.num_classes))
    L.seed_everything(0, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        audit = audit_by_features(network, data, folder / "audit", features=folder / "features")
    features = read_features(folder / "features")
    values = dict(zip(features.ids.to_pylist(), features.values.float().numpy(), strict=True))
    held_out = json.loads((folder / "held_out.json").read_text())
    tests = np.stack([values[name] for name in held_out])
    copied = {row["id"] for row in audit.table.to_pylist() if "test" in (row["near_duplicate_splits"] or "")}
    lines = []
    for name, kinds in CLEANED.items():
        report = audit.apply("relabel", folder / "cleaned.parquet", kinds=kinds)
        left = pyarrow.parquet.read_table(folder / "cleaned.parquet", columns=["id", "label"]).to_pylist()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
        model.fit(
            np.stack([values[row["id"]] for row in left]), [audit.summary.class_names[row["label"]] for row in left]
        )
        right = model.predict(tests) == np.array(list(held_out.values()))
        line = {
            "seed": seed,
            "cleaned": name,
            "images": report.kept,
            "relabelled": report.relabelled,
            "reasons": report.reasons,
        }
        line |= {"accuracy": round(float(right.mean()), 4), "leaking": len(copied & {row["id"] for row in left})}
        lines.append(line)
    with options.output.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return lines


def table(lines: list[dict]) -> str:
    """Means over the seeds, in Markdown; the gain is on the same scrape, with the seeds' standard deviation."""
    without = {line["seed"]: line["accuracy"] for line in lines if not CLEANED[line["cleaned"]]}
    head = ("cleaned of", "images left", "relabelled", "copies of test images", "accuracy", "gain")
    rows = [f"| {' | '.join(head)} |", "|---|---:|---:|---:|---:|---:|"]
    for name in dict.fromkeys(line["cleaned"] for line in lines):
        mine = [line for line in lines if line["cleaned"] == name]
        images, relabelled, leaking, accuracy = (
            float(np.mean([line[key] for line in mine])) for key in ("images", "relabelled", "leaking", "accuracy")
        )
        gains = [line["accuracy"] - without[line["seed"]] for line in mine]
        gain = f"{np.mean(gains):+.3f} ± {np.std(gains, ddof=len(gains) > 1):.3f}" if CLEANED[name] else ""
        rows.append(f"| {name} | {images:,.0f} | {relabelled:,.0f} | {leaking:,.0f} | {accuracy:.3f} | {gain} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
