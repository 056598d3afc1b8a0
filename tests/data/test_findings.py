"""What the look at all images has found: its table and its file."""

import io
import json
import shutil
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.data.broken_images import scan_images
from lightning_noisy.data.findings import FINDINGS_FILE, Findings, collect_findings, findings_table, show_findings

from ..photos import draw_image


def find(source, **options):
    splits = NoisyImageDataModule(str(source), **{"val_fraction": 0.0, **options}).splits
    return collect_findings(splits, {split: scan_images(images, split) for split, images in splits.items()}, "photos")


def shown(findings, file=None):
    console = Console(file=io.StringIO(), width=120)
    show_findings(findings, console, file)
    return console.file.getvalue()


def row_of(text, name):
    return next(line for line in text.splitlines() if name in line).replace("│", " ").replace("┃", " ").split()


class Nothing(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_images_classes_and_what_is_broken_are_counted_in_each_split(photos):
    (photos / "ant" / "00.png").write_bytes(b"<html>404</html>")
    (photos / "ant" / "01.png").write_bytes((photos / "ant" / "01.png").read_bytes()[:60])
    rows = ["path,label,split"]
    rows += [f"{n}/{i:02}.png,{n},{'test' if i > 8 else 'train'}" for n in ("ant", "bee", "cat") for i in range(12)]
    rows.append("bee/99.png,bee,test")
    (photos / "l.csv").write_text("\n".join(rows), encoding="utf-8")
    findings = find(photos / "l.csv")
    assert findings.images == {"test": 10, "train": 27}
    assert findings.classes["bee"] == {"test": 4, "train": 9}
    assert findings.not_decoded == {"test": 0, "train": 2}
    assert findings.not_opened == {"test": 1, "train": 0}
    assert findings.two_labels == [] and findings.suspicious_names == []
    text = shown(findings)
    assert row_of(text, "bee") == ["bee", "4", "9"]
    assert row_of(text, "decoded")[-2:] == ["0", "2"] and row_of(text, "opened")[-2:] == ["1", "0"]


def test_the_same_file_under_two_labels_over_splits_too(photos, tmp_path):
    shutil.copy(photos / "ant" / "00.png", photos / "bee" / "same.png")
    shutil.copy(photos / "ant" / "01.png", photos / "ant" / "same label.png")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    shutil.copy(photos / "ant" / "00.png", tmp_path / "test" / "cat" / "0.png")
    (photos / "cat" / "x.png").write_bytes(b"broken alike")
    (photos / "bee" / "x.png").write_bytes(b"broken alike")
    findings = find(photos, test_source=str(tmp_path / "test"))
    assert [sorted((i["split"], i["id"], i["label"]) for i in group) for group in findings.two_labels] == [
        [("test", "cat/0.png", "cat"), ("train", "ant/00.png", "ant"), ("train", "bee/same.png", "bee")]
    ]
    text = shown(findings)
    assert row_of(text, "two labels")[-2:] == ["2", "1"]
    assert "bee/same.png is 'bee'" in text


@pytest.mark.filterwarnings("ignore:Some classes")
def test_suspicious_names(photos):
    for name in ("Ant", "New folder", "unknown", " owl"):
        (photos / name).mkdir()
        draw_image(0, len(name)).save(photos / name / "0.png")
    draw_image(0, 50).save(photos / "bee" / "00 - Copy.png")
    draw_image(0, 51).save(photos / "bee" / "00 (1).png")
    found = "\n".join(find(photos).suspicious_names)
    assert "'Ant', 'ant' are called alike" in found
    assert "'New folder', 'unknown'" in found
    assert "invisible letters: ' owl'" in found
    assert "2 images called a copy of another, such as 'bee/00 (1).png'" in found


def test_of_many_classes_the_table_has_the_largest_and_the_smallest():
    classes = {f"class[{k}]": {"train": k} for k in range(100)}
    findings = Findings("s", {"train": 4950}, classes, {"train": 0}, {"train": 0}, [], [])
    table = findings_table(findings)
    text = shown(findings)
    assert table.row_count == 10 + 1 + 10 + 4
    assert "class[99]" in text and "class[0]" in text and "class[50]" not in text
    assert row_of(text, "all 100")[-1] == "4,950"
    assert "80 classes between" in text


def fit(photos, tmp_path, data=None, **options):
    logger = CSVLogger(tmp_path, name="run", version=0)
    trainer = L.Trainer(
        logger=logger, max_steps=1, accelerator="cpu", enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=tmp_path, **options,
    )  # fmt: skip
    data = data or NoisyImageDataModule(str(photos), image_size=8, num_workers=0)
    trainer.fit(Nothing(), data)
    return data, Path(logger.log_dir) / FINDINGS_FILE


def test_a_fit_tells_them_once_and_keeps_them_beside_its_logs(photos, tmp_path, capsys):
    data, file = fit(photos, tmp_path)
    assert capsys.readouterr().out.count("The images of") == 1
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert kept["images"] == {"train": 33, "val": 3} and kept["classes"]["ant"] == {"train": 11, "val": 1}
    fit(photos, tmp_path, data)
    fit(photos, tmp_path, data.with_splits(data.splits))
    assert "The images of" not in capsys.readouterr().out


def test_files_that_are_not_read_are_named(photos, tmp_path, capsys):
    for number in range(1200):
        (photos / "ant" / f"{number:04}.json").write_text("{}", encoding="utf-8")
    (photos / "[red]x").mkdir()
    draw_image(0, 3).save(photos / "[red]x" / "0.png")
    draw_image(0, 4).save(photos / "[red]x" / "1.png")
    (photos / "[red]x" / "a.heic").write_bytes(b"x")
    _, file = fit(photos, tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    assert "files that are not read │ 1,201 │ 0 │" in out
    assert "Not read: 1,200 (.json) such as 'ant/0000.json'; 1 (.heic) such as '[red]x/a.heic'" in out
    kept = json.loads(file.read_text(encoding="utf-8"))["not_read"]
    assert kept["train"][".json"] == {"files": 1200, "first": "ant/0000.json"} and kept.keys() == {"train"}


def test_a_quiet_fit_keeps_the_file_alone(photos, tmp_path, capsys):
    _, file = fit(photos, tmp_path, enable_progress_bar=False)
    assert "The images of" not in capsys.readouterr().out
    assert file.is_file()


def test_only_a_fit_tells_them(photos, capsys):
    data = NoisyImageDataModule(str(photos), image_size=8, num_workers=0)
    data.setup("validate")
    assert "The images of" not in capsys.readouterr().out


@pytest.mark.parametrize(("count", "is_shown"), [(36, True), (37, False)])
def test_many_files_have_a_progress_bar(photos, monkeypatch, count, is_shown):
    monkeypatch.setattr("lightning_noisy.data.broken_images.SHOW_PROGRESS_FROM", count)
    hidden = []
    monkeypatch.setattr(
        "lightning_noisy.data.broken_images.track", lambda looks, words, disable, **_: hidden.append(disable) or looks
    )
    find(photos)
    assert hidden == [not is_shown]
