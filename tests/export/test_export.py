import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import timm
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageClassification

from lightning_noisy import NoiseConfig, NoisyImageClassifier, NoisyImageDataModule, NoisyLabelMixin
from lightning_noisy.hf import NoisyForImageClassification, NoisyTrainer
from lightning_noisy.hub import export_clean

from ..hf.small import NAMES, Images, arguments, noisy_vit, saved_timm, tiny_vit
from ..quick import plain_python
from ..training.small import QUIET
from .small import images, train

BESIDE = {"README.md", "config.json", "model.safetensors", "noise_layer.safetensors", "noise_config.json"}
BESIDE |= {"transition_matrix.csv", "transition_matrix.png", "label_counts.csv", "noisy_training.json"}
BESIDE |= {"training_curves.png"}

NATIVE = """
import json, sys
sys.modules["lightning_noisy"] = None  # can't be imported
import timm, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder, kind = sys.argv[1:]
images = torch.load("images.pt", weights_only=True)
model = AutoModelForImageClassification.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder)
found = {"type": type(model).__name__, "names": model.config.id2label, "label2id": model.config.label2id}
found["pixels"] = list(processor(Image.new("RGB", (70, 50)), return_tensors="pt")["pixel_values"].shape)
with torch.no_grad():
    logits = {"transformers": model(images).logits}
    if kind == "timm":
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        logits["timm"] = plain(images)
        found["timm_names"] = plain.pretrained_cfg["label_names"]
        found["timm_input"] = timm.data.resolve_model_data_config(plain)["input_size"]
torch.save(logits, "logits.pt")
print(json.dumps(found))
"""


def read_natively(folder, kind, tmp_path):
    """What plain timm and transformers find in an export, where this package can't be imported."""
    torch.save(images(), tmp_path / "images.pt")
    (tmp_path / "native.py").write_text(NATIVE, encoding="utf-8")
    command = [plain_python(), "native.py", str(folder), kind]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1]), torch.load(tmp_path / "logits.pt", weights_only=True)


def accuracy(found):
    return {"accuracy_noisy": float((found.predictions.argmax(1) == found.label_ids).mean())}


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def test_a_lightning_checkpoint_becomes_a_model_of_timm_and_of_transformers(lightning_checkpoint, tmp_path):
    moved = tmp_path / "elsewhere.ckpt"  # as on another machine: nothing but the file
    shutil.copy(lightning_checkpoint, moved)
    folder = export_clean(moved, tmp_path / "clean", license="apache-2.0")
    assert {path.name for path in folder.iterdir()} == BESIDE
    assert "(training_curves.png)" in card_of(folder).text
    assert not list(tmp_path.glob(".clean-*")), "nothing half-written is left"
    module = NoisyImageClassifier.load_from_checkpoint(lightning_checkpoint, weights_only=True).eval()
    found, logits = read_natively(folder, "timm", tmp_path)
    with torch.no_grad():
        expected = module(images())
    for name in ("timm", "transformers"):
        torch.testing.assert_close(logits[name], expected, rtol=0, atol=1e-6)
    assert found["type"] == "TimmWrapperForImageClassification"
    assert list(found["names"].values()) == found["timm_names"] == ["ant", "bee", "cat"]
    assert found["label2id"] == {"ant": 0, "bee": 1, "cat": 2}
    assert found["pixels"] == [1, 3, 32, 32] and found["timm_input"] == [3, 32, 32]
    learned = module.noise_layer.weight
    assert torch.equal(load_file(folder / "noise_layer.safetensors")["weight"], learned)
    with open(folder / "transition_matrix.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["clean \\ noisy", "ant", "bee", "cat"]
    written = torch.tensor([[float(value) for value in row[1:]] for row in rows[1:]])
    torch.testing.assert_close(written, module.noise_layer.transition_matrix(), atol=1e-6, rtol=0)
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert str(lightning_checkpoint.parent).encode() not in path.read_bytes(), path.name


def test_a_transformers_backbone_keeps_its_class_and_its_processor(tmp_path):
    base = tmp_path / "base"
    tiny_vit(num_labels=5).save_pretrained(base)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.2] * 3).save_pretrained(base)
    checkpoint = train(tmp_path, f"hf:{base}", image_size=None)
    shutil.rmtree(base)  # nothing but the checkpoint is needed
    folder = export_clean(checkpoint, tmp_path / "clean", license="mit")
    found, logits = read_natively(folder, "transformers", tmp_path)
    module = NoisyImageClassifier.load_from_checkpoint(checkpoint, weights_only=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits["transformers"], module(images()), rtol=0, atol=1e-6)
    assert found["type"] == "ViTForImageClassification"
    assert found["names"] == {"0": "ant", "1": "bee", "2": "cat"}
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.2] * 3
    assert "timm" not in card_of(folder).data.tags
    assert card_of(folder).data.library_name == "transformers"


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_a_model_trained_by_the_transformers_trainer(kind, tmp_path):
    noise = NoiseConfig(warmup_epochs=1)
    if kind == "timm":
        backbone = saved_timm(tmp_path / "base")
        model = NoisyForImageClassification.from_backbone(backbone, noise=noise, id2label=NAMES)
    else:
        model = noisy_vit(noise)
    args = arguments(tmp_path / "run", save_strategy="epoch", eval_strategy="epoch")
    NoisyTrainer(
        model=model,
        args=args,
        train_dataset=Images(),
        eval_dataset=Images(6),
        compute_metrics=lambda found: {
            "accuracy_noisy": float((found.predictions.argmax(1) == found.label_ids).mean())
        },
    ).train()
    folder = export_clean(tmp_path / "run" / "checkpoint-12", tmp_path / "clean", license="mit")
    assert {path.name for path in folder.iterdir()} >= BESIDE
    found, logits = read_natively(folder, kind, tmp_path)
    model.eval()
    with torch.no_grad():
        expected = model(images()).logits
    for name in logits:
        torch.testing.assert_close(logits[name], expected, rtol=0, atol=1e-6)
    assert list(found["names"].values()) == list(NAMES.values())
    assert found["pixels"] == [1, 3, 32, 32]
    again = export_clean(model, tmp_path / "from memory", license="mit")
    assert load_file(again / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    text = card_of(folder).text
    assert "eval\\_accuracy\\_noisy" in text and "the given, partly wrong labels" in text
    assert "| training images | 24 |" in text


def test_training_goes_on_from_an_export(lightning_checkpoint, tmp_path):
    folder = export_clean(lightning_checkpoint, tmp_path / "clean", license="mit")
    module = NoisyImageClassifier.load_from_checkpoint(lightning_checkpoint, weights_only=True)
    model = NoisyForImageClassification.from_backbone(folder, noise="export")
    assert torch.equal(model.noise_layer.weight, module.noise_layer.weight)
    assert model.noise_layer.config == module.noise_layer.config
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images()).logits, module.eval()(images()), rtol=0, atol=1e-6)
    args = arguments(tmp_path / "run", max_steps=2)
    NoisyTrainer(model=model, args=args, train_dataset=Images()).train()
    twice = export_clean(folder, tmp_path / "twice", license="mit")
    assert torch.equal(load_file(twice / "noise_layer.safetensors")["weight"], module.noise_layer.weight)
    assert card_of(twice).text == card_of(folder).text.replace("# clean", "# twice")


def test_a_module_in_memory_tells_what_its_trainer_knows(lightning_checkpoint, tmp_path):
    class Own(NoisyLabelMixin, L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = timm.create_model("test_resnet", num_classes=3)
            self.attach_noise_layer(NoiseConfig(3, warmup_epochs=0))

        def training_step(self, batch, batch_idx):
            return self.noisy_loss(self.net(batch["pixel_values"]), batch["labels"])

    module = Own()
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, torch.utils.data.DataLoader(Images(), batch_size=8))
    folder = export_clean(module, tmp_path / "clean", license="mit", metrics={"test/accuracy_clean": 0.75})
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(images()), module.net.eval()(images()), rtol=0, atol=1e-6)
    text = card_of(folder).text
    assert "AdamW\\(lr=0.001" in text
    assert "| test/accuracy\\_clean | 0.75 | checked labels |" in text

    checkpoint = tmp_path / "own.ckpt"
    trainer.save_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=r"does not tell its architecture.*load_from_checkpoint"):
        export_clean(checkpoint, tmp_path / "other", license="mit")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["timm", "transformers", "wrapped", "lightning"])
def test_a_model_that_was_never_trained_with_noise_says_so(kind, tmp_path):
    model = {
        "timm": lambda: timm.create_model("test_resnet", num_classes=3),
        "transformers": lambda: tiny_vit(),
        "wrapped": lambda: AutoModelForImageClassification.from_pretrained(saved_timm(tmp_path / "base")),
        "lightning": lambda: NoisyImageClassifier("timm:test_resnet", 3, pretrained=False, noise=None),
    }[kind]()
    folder = export_clean(model, tmp_path / "clean", license="mit")
    text = card_of(folder).text
    assert "not trained through a noise layer" in text
    assert "noise_layer.safetensors" not in text
    assert not (folder / "noise_layer.safetensors").exists()
    assert "noisy-labels" not in card_of(folder).data.tags
    assert "transition_matrix.png" not in text and "training_curves.png" not in text


def test_the_code_on_the_card_runs_as_pasted(lightning_checkpoint, tmp_path):
    folder = export_clean(lightning_checkpoint, tmp_path / "clean", license="mit")
    snippets = re.findall(r"```python\n(.*?)```", card_of(folder).text, re.DOTALL)
    assert len(snippets) == 3
    said = []
    for snippet in snippets:
        ran = subprocess.run([plain_python(), "-c", snippet], cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
        said.append(ran.stdout.split())
    assert said[0][0] == said[1][0] in ("ant", "bee", "cat")
    assert float(said[0][1]) == pytest.approx(float(said[1][1]), abs=1e-3)


def test_the_code_for_another_image_size_runs_as_pasted(tmp_path):
    module = NoisyImageClassifier(
        {"library": "transformers", "config": tiny_vit().config.to_dict()}, 3, image_size=48, noise={"warmup_epochs": 0}
    )
    folder = export_clean(module, tmp_path / "clean", license="mit")
    (snippet, _) = re.findall(r"```python\n(.*?)```", card_of(folder).text, re.DOTALL)
    assert "interpolate_pos_encoding=True" in snippet
    ran = subprocess.run([plain_python(), "-c", snippet], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert (processor.crop_size["height"], processor.crop_size["width"]) == (48, 48)


def test_a_directory_that_is_not_empty_is_left_alone_unless_asked(lightning_checkpoint, tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    (folder / "README.md").write_text("mine too")
    with pytest.raises(ValueError, match=r"not empty.*--overwrite"):
        export_clean(lightning_checkpoint, folder, license="mit")
    assert (folder / "README.md").read_text() == "mine too"
    assert len(list(folder.iterdir())) == 2
    export_clean(lightning_checkpoint, folder, license="mit", overwrite=True)
    assert (folder / "thesis.txt").read_text() == "mine"
    export_clean(tiny_vit(), folder, license="mit", overwrite=True)
    assert not (folder / "noise_layer.safetensors").exists(), "it belonged to the model that was there before"


MISTAKES = {
    "no licence": (lambda tmp: {"license": None}, "`license`.*'apache-2.0'.*got none"),
    "no such licence": (lambda tmp: {"license": "Apache 2.0!"}, "`license`.*'Apache 2.0!'"),
    "no such file": (lambda tmp: {"model": tmp / "nowhere.ckpt"}, "does not exist"),
    "an empty folder": (lambda tmp: {"model": tmp}, "neither a checkpoint"),
    "no checkpoint": (lambda tmp: {"model": _write(tmp / "a.ckpt", b"hello")}, "can't be read as one"),
    "a pickle": (lambda tmp: {"model": _pickled(tmp / "a.ckpt")}, "tensors and primitives only"),
    "no dictionary": (lambda tmp: {"model": _saved(tmp / "a.ckpt", torch.ones(2))}, "no dictionary"),
    "another checkpoint": (lambda tmp: {"model": _saved(tmp / "a.ckpt", {"state_dict": {}})}, "does not tell"),
    "a module of one's own": (lambda tmp: {"model": nn.Linear(2, 2)}, "Linear.*save_model"),
    "no module": (lambda tmp: {"model": 3}, "`model`.*int"),
    "a file as directory": (lambda tmp: {"directory": _write(tmp / "a", b"")}, "`directory`.*is a file"),
    "a repository name": (lambda tmp: {"repo_id": "a b"}, "`repo_id`.*'me/birds'"),
    "a base model": (lambda tmp: {"base_model": "<script>"}, "`base_model`"),
    "a metric that is none": (lambda tmp: {"metrics": {"accuracy": float("nan")}}, "finite numbers.*nan"),
    "a metric": (lambda tmp: {"metrics": {"accuracy": "high"}}, "`metrics`.*'high'.*'accuracy'"),
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def _pickled(path: Path) -> Path:
    return _saved(path, {"state_dict": {}, "hyper_parameters": {"backbone": subprocess.Popen}})


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_one_sentence_and_nothing_is_written(mistake, tmp_path):
    make, message = MISTAKES[mistake]
    (tmp_path / "in").mkdir()
    options = {"model": tiny_vit(), "directory": tmp_path / "out", "license": "mit", **make(tmp_path / "in")}
    with pytest.raises(ValueError, match=message) as raised:
        export_clean(**options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_the_newest_checkpoint_in_a_folder_of_them_is_named(tmp_path):
    args = arguments(tmp_path, save_strategy="epoch")
    NoisyTrainer(model=noisy_vit(), args=args, train_dataset=Images()).train()
    with pytest.raises(ValueError, match=r"Did you mean '.*checkpoint-12'"):
        export_clean(tmp_path, tmp_path / "out", license="mit")


def test_a_checkpoint_of_weights_alone_keeps_the_record(lightning_checkpoint, tmp_path):
    module = NoisyImageClassifier.load_from_checkpoint(lightning_checkpoint, weights_only=True)
    trainer = L.Trainer(max_epochs=1, **QUIET)
    data = NoisyImageDataModule(str(lightning_checkpoint.parent / "photos"), image_size=32, batch_size=8, num_workers=0)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    text = card_of(export_clean(tmp_path / "weights.ckpt", tmp_path / "clean", license="mit")).text
    assert "val/accuracy\\_noisy" in text and "| training images | 33 |" in text


def test_a_timm_model_with_other_channels_or_another_fixed_size(tmp_path):
    for name, options, size in (
        ("test_resnet", {"in_chans": 1}, (1, 160, 160)),
        ("vit_tiny_patch16_224", {"img_size": 96, "depth": 1}, (3, 96, 96)),
    ):
        module = NoisyImageClassifier(f"timm:{name}", 3, pretrained=False, backbone_kwargs=options).eval()
        folder = export_clean(module, tmp_path / name, license="mit")
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert timm.data.resolve_model_data_config(plain)["input_size"] == size
        pixels = torch.randn(2, *size)
        torch.testing.assert_close(plain(pixels), module(pixels), rtol=0, atol=1e-5)
        snippet = re.findall(r"```python\n(.*?)```", card_of(folder).text, re.DOTALL)[0]
        ran = subprocess.run([plain_python(), "-c", snippet], cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]


def test_a_compiled_model_and_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    export_clean(torch.compile(noisy_vit(), backend="eager"), ".", license="mit", metrics={"a_clean": np.float32(0.5)})
    assert "# birds" in Path("README.md").read_text(encoding="utf-8")
    assert "| a\\_clean | 0.5 | checked labels |" in Path("README.md").read_text(encoding="utf-8")


def test_the_licence_of_the_weights_stands_in_timm_s_config_too(lightning_checkpoint, tmp_path):
    folder = export_clean(lightning_checkpoint, tmp_path / "clean", license="cc-by-nc-4.0")
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
