"""The recipes that audit and train again, on a tiny input."""

import json
import os
import subprocess

import pyarrow.parquet
import pytest
import timm
import torch

from tests.training.loggers.wandb_file import read_only_run

from . import quick
from .recipes import RECIPES, SMALL, TINY

pytestmark = pytest.mark.usefixtures("no_wandb_account")


@pytest.mark.slow
def test_the_audit_trains_twice_and_goes_on_with_the_decisions_of_a_review(photos, tmp_path):
    options = [*TINY, *SMALL, "--data.image_size=32", "--trainer.enable_progress_bar=false"]
    environment = {**os.environ, "PATH": quick.path(), "POLICY": "weight"}

    def run(**more):
        command = ["bash", str(RECIPES / "audit.sh"), *options]
        subprocess.run(command, env={**environment, "DATA": str(photos), **more}, check=True, cwd=tmp_path)

    run()
    folder = tmp_path / "runs" / "audit"
    assert (folder / "audit" / "report.html").is_file()
    for part in ("noisy", "cleaned"):
        read_only_run(folder / part / "runs" / "imagefolder", "audit+imagefolder")
    assert list((folder / "cleaned").rglob("clean_model/model.safetensors"))
    cleaned = pyarrow.parquet.read_table(folder / "cleaned.parquet")
    assert len(cleaned) == 36 and cleaned["label_weight"].to_numpy().max() <= 1
    audit_id = json.loads((folder / "audit" / "summary.json").read_text(encoding="utf-8"))["audit_id"]
    entries = [{"id": "ant/00.png", "decision": "drop"}]
    decisions = tmp_path / "my decisions.json"
    decisions.write_text(json.dumps({"format": 1, "audit_id": audit_id, "decisions": entries}), encoding="utf-8")
    run(DECISIONS=str(decisions))
    ids = pyarrow.parquet.read_table(folder / "cleaned.parquet")["id"].to_pylist()
    assert len(ids) == 35 and "ant/00.png" not in ids


@pytest.mark.slow
def test_audit_first_trains_anew_where_decisions_change_the_labels(photos, tmp_path):
    torch.manual_seed(0)  # weights that are drawn: what is flagged depends on them
    backbone = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(backbone, str(tmp_path / "backbone"), safe_serialization=True)
    options = ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--trainer.accelerator=cpu"]
    options += ["--trainer.max_epochs=1", "--data.image_size=32", "--data.num_workers=0", "--data.batch_size=8"]
    environment = {**os.environ, "PATH": quick.path(), "SIZE": "32"}
    environment |= {"DATA": str(photos), "BACKBONE": f"timm:local-dir:{tmp_path / 'backbone'}"}
    command = ["bash", str(RECIPES / "audit_first.sh"), *options]

    def run(**more):
        subprocess.run(command, env={**environment, **more}, check=True, cwd=tmp_path)

    run()
    folder = tmp_path / "runs" / "audit_first"
    assert (folder / "audit" / "report.html").is_file() and (folder / "audit" / "features").is_dir()
    kept = ids_in(folder / "cleaned.parquet")
    assert "ant/00.png" in kept
    (first,) = folder.rglob("clean_model/model.safetensors")
    audit_id = json.loads((folder / "audit" / "summary.json").read_text(encoding="utf-8"))["audit_id"]
    decisions = tmp_path / "my decisions.json"
    entries = [{"id": "ant/00.png", "decision": "drop"}]
    decisions.write_text(json.dumps({"format": 1, "audit_id": audit_id, "decisions": entries}), encoding="utf-8")
    first_inode = first.stat().st_ino
    run(DECISIONS=str(decisions))
    assert ids_in(folder / "cleaned.parquet") == kept - {"ant/00.png"}
    (second,) = folder.glob("runs/imagefolder/**/clean_model/model.safetensors")
    assert second.stat().st_ino != first_inode, "other labels are trained on anew"
    (before,) = folder.glob("runs.before.*/imagefolder/**/clean_model/model.safetensors")
    assert before.stat().st_ino == first_inode, "nothing is lost"


def ids_in(manifest):
    return set(pyarrow.parquet.read_table(manifest)["id"].to_pylist())
