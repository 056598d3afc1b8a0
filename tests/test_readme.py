"""The code of the README runs."""

import re
from pathlib import Path

import lightning.pytorch as L
import pytest
from transformers import ViTImageProcessor

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule

from .hf.small import tiny_vit

README = Path(__file__).parents[1] / "README.md"


def code_with(word):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if word in block)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_transformers_way(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tiny_vit(5).save_pretrained(tmp_path / "base")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "base")
    code = code_with("NoisyForImageClassification")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    code = code.replace("google/vit-base-patch16-224-in21k", str(tmp_path / "base"))
    code = code.replace("num_train_epochs=15", "num_train_epochs=1, use_cpu=True, report_to='none', disable_tqdm=True")
    space: dict = {}
    exec(code, space)
    assert type(space["clean"]).__name__ == "ViTForImageClassification"
    assert space["clean"].config.id2label == {0: "ant", 1: "bee", 2: "cat"}


def test_every_file_that_it_links_to_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_audit(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(photos.parent)
    data = NoisyImageDataModule(photos.name)
    model = NoisyImageClassifier("timm:test_resnet", data.num_classes, data.class_names, pretrained=False)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(model, data)
    trainer.save_checkpoint("runs/imagefolder/checkpoints/last.ckpt")
    code = code_with("audit_labels").replace('"photos"', repr(photos.name))
    # After one epoch a class may be suggested for no image: the given labels stay.
    code = code.replace('policy="relabel"', 'policy="weight"').replace("to_dataset()", "to_dataset('weight')")
    space: dict = {}
    exec(code, space)
    assert len(space["audit"].table) == len(space["cleaned"]) == 36
    assert Path("audit/manifest.parquet").is_file()
