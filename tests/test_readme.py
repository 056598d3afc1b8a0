"""The code of the README runs."""

import re
from pathlib import Path

import pytest
from transformers import ViTImageProcessor

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
