"""Two processes (Gloo): one judges alone, for longer than the process group would let the other wait at a barrier."""

import os
import subprocess
import sys
import time

import pytest

from lightning_noisy.audit.label_audit import LabelAudit

pytestmark = pytest.mark.slow

LIMIT = 40
SCRIPT = f"""
import os
import sys
import time
from datetime import timedelta
import lightning.pytorch as L
from lightning.pytorch.strategies import DDPStrategy
from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.audit.judging import refinement
from lightning_noisy.audit.judging import by_model
from lightning_noisy.audit.label_refinement import LabelRefinement

what, output = sys.argv[1:]
data = NoisyImageDataModule("digits", noise="uniform:0.4", image_size=16, num_workers=0, max_train_images=300)
with open(f"{{output}}/pids", "a") as file:
    file.write(f"{{os.getpid()}} ")

def slow(function):
    def slowly(*args, **kwargs):
        if what == "fails":
            raise ValueError("no room to judge")
        time.sleep({LIMIT + 3})
        return function(*args, **kwargs)
    return slowly

refinement.judge_by_probe = slow(refinement.judge_by_probe)
by_model.find_duplicates = slow(by_model.find_duplicates)
trainer = L.Trainer(
    max_epochs=1, accelerator="cpu", devices=2, enable_progress_bar=False, logger=False, enable_checkpointing=False,
    default_root_dir=output, callbacks=[LabelRefinement()] if what == "refinement" else [],
    strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds={LIMIT})),
)
L.seed_everything(0)
model = NoisyImageClassifier("timm:test_vit", 10, pretrained=False, image_size=16, backbone_kwargs={{"patch_size": 4}})
if what == "refinement":
    trainer.fit(model, data)
else:
    by_model.audit_labels(model, data, f"{{output}}/audit", trainer=trainer)
os.write(1, f"finished {{trainer.global_rank}}\\n".encode())  # in one piece
"""


def run(what, folder):
    (folder / "script.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, str(folder / "script.py"), what, str(folder)],  # a fork has another parent
        capture_output=True, text=True, timeout=280, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


@pytest.mark.parametrize("what", ["checkpoint", "refinement"])
def test_the_other_process_waits_as_long_as_the_first_one_judges(what, tmp_path):
    done = run(what, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "finished 0" in done.stdout and "finished 1" in done.stdout
    if what == "checkpoint":
        assert len(LabelAudit(tmp_path / "audit").table) == LabelAudit(tmp_path / "audit").summary.images


def test_the_other_process_ends_when_the_first_one_fails(tmp_path):
    done = run("fails", tmp_path)
    assert done.returncode != 0
    assert "no room to judge" in done.stderr
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
