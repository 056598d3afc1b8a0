"""What the README says works, word by word but for the size of the networks."""

import json
import shutil

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from transformers import ViTImageProcessor

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.cli import lightning_cli, start

from .documents import ROOT, commands, python_blocks
from .hf.small import Images, tiny_vit

README = ROOT / "README.md"
ONE_SCREEN = 110
"""Lines."""


def block_with(word):
    return next(block for block in python_blocks(README) if word in block)


def test_it_is_one_screen_and_names_the_commands_of_the_makefile():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= ONE_SCREEN
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "docs", "format", "lint", "test-fast"):
        assert f"make {target}" in text and f"\n{target}:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def results(name):
    lines = (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("row", "cell", "methods"),
    [
        ("MNIST, 45%", "mnist uniform:0.5", ["cross-entropy", "noise layer"]),
        ("MobileNetV2", "cifar10n worse, fine-tuning", ["cross-entropy", "noise layer", "GCE"]),
        ("with augmented images", "cifar10n worse, fine-tuning, augmented", ["cross-entropy", "noise layer", "ELR"]),
        (
            "EfficientNet-Lite0",
            "cifar10n worse, EfficientNet's last stage",
            ["cross-entropy", "noise layer", "GCE", "label refinement"],
        ),
    ],
)
def test_its_accuracies_are_those_of_the_benchmark(row, cell, methods):
    told = next(line for line in README.read_text(encoding="utf-8").splitlines() if row in line)
    for method in methods:
        measured = [
            line["last"] for line in results("denoise.jsonl") if (line["cell"], line["method"]) == (cell, method)
        ]
        assert f"{np.mean(measured):.3f}"[1:] in told, method


def test_its_other_numbers_are_those_of_the_benchmarks():
    rows = {
        line.split("|")[1].strip(): line for line in README.read_text(encoding="utf-8").splitlines() if "| `" in line
    }
    by_trainer = next(row for words, row in rows.items() if "Trainer" in words)
    for arm in ("cross-entropy", "noise layer"):
        measured = [line["test_accuracy_clean"] for line in results("hf_trainer.jsonl") if line["arm"] == arm]
        assert f"{np.mean(measured):.3f}"[1:] in by_trainer
    stability = (ROOT / "benchmarks" / "results" / "stability.md").read_text(encoding="utf-8").split("## ")[1]
    cells = {line.split(" | ")[0][2:]: line.split(" | ") for line in stability.splitlines() if line.startswith("| ")}
    harmed = next(row for words, row in rows.items() if "random trainings" in words)
    assert f"| {cells['cross-entropy, third seed'][6]} (another seed) | **{cells['noise layer'][6]}** |" in harmed
    speeds = [line["images_per_second"] for line in results("gpu.jsonl") if line["part"] == "throughput"]
    fast = next(row for words, row in rows.items() if "H200" in words)
    assert all(f"{speed:,.0f}" in fast for speed in speeds)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_module_of_ones_own(photos):
    code = block_with("NoisyLabelMixin").replace('"resnet50"', '"test_resnet"').replace("14", "3")
    space: dict = {}
    exec(code, space)
    module = space["MyModule"]()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.01)
    data = NoisyImageDataModule(str(photos), image_size=32, num_workers=0)
    images = torch.randn(12, 3, 32, 32)
    loader = torch.utils.data.DataLoader(list(zip(images, torch.arange(12) % data.num_classes, strict=True)), 4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False).fit(module, loader)
    assert module.noise_layer.num_classes == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_transformers_way(tmp_path):
    tiny_vit(5).save_pretrained(tmp_path / "base")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "base")
    code = block_with("NoisyForImageClassification").replace(
        "google/vit-base-patch16-224-in21k", str(tmp_path / "base")
    )
    code = code.replace("num_train_epochs=15", "num_train_epochs=1, use_cpu=True, report_to='none', disable_tqdm=True")
    names = {0: "ant", 1: "bee", 2: "cat"}
    space: dict = {"names": names, "photos": {"train": Images(12), "test": Images(6)}}
    exec(code, space)
    assert type(space["clean"]).__name__ == "ViTForImageClassification"
    assert space["clean"].config.id2label == names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_from_a_folder_to_a_push(photos, tmp_path, monkeypatch):
    """The commands of the README and of docs/your_photos.md, in their order, on tiny photos and networks."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    told = [words for path in (README, ROOT / "docs" / "your_photos.md") for words in commands(path)]
    ours = [words for words in told if words[0] == "lightning-noisy"]
    for words in [words for words in ours if words[1] != "push" or "--dry_run" in words]:
        command = [word.replace("timm:resnet50.a1_in1k", "timm:test_resnet") for word in words[1:]]
        if command[0] == "init":
            (tmp_path / "config.yaml").unlink(missing_ok=True)
        if command[0] == "fit":
            shutil.rmtree("runs", ignore_errors=True)
            command += ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--model.image_size=32"]
            command += ["--trainer.max_epochs=1"]
            command += ["--trainer.accelerator=cpu", "--data.num_workers=0", "--trainer.enable_progress_bar=false"]
        if command[0] == "audit":
            shutil.rmtree("audit", ignore_errors=True)
            command += ["--trainer.accelerator=cpu", "--data.num_workers=0"]
            command += ["--pretrained=false", "--data.image_size=32"] if "--backbone" in command else []
        if command[0] == "apply":  # after one epoch the suggestions are worth nothing: the classes must stay
            command[command.index("relabel")] = "weight"
        monkeypatch.setattr("sys.argv", ["lightning-noisy", *command])
        start.console_script()
    assert (tmp_path / "audit" / "report.html").is_file()
    assert (tmp_path / "clean-birds" / "README.md").is_file()
    assert lightning_cli.PROGRAM == "lightning-noisy"
