"""Two processes of a CPU (gloo) share the noise layer out, and follow the counts of both."""

import subprocess

import numpy as np
import pytest
import torch

from ..photos import write_photos
from ..quick import python

pytestmark = pytest.mark.slow

EPOCHS = 8
SCRIPT = """
import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.tensor import DTensor
from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.training.sharding import ShardedStrategy


class Counted(NoisyImageClassifier):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def noisy_loss(self, clean_logits, noisy_labels):
        predicted = clean_logits.argmax(dim=1).tolist()
        self.seen += [(self.current_epoch, *pair) for pair in zip(predicted, noisy_labels.tolist(), strict=True)]
        return super().noisy_loss(clean_logits, noisy_labels)


def train(name, ckpt_path=None):
    L.seed_everything(0)
    data = NoisyImageDataModule(
        "photos", image_size=16, batch_size=5, num_workers=0, val_fraction=0.15, max_train_images=30, noise="pair:0.3",
    )
    noise = {"warmup_epochs": 2}
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    model = Counted(
        "timm:test_vit", 3, pretrained=False, image_size=16, backbone_kwargs={"patch_size": 4}, noise=noise,
        optimizer=sgd,
    )
    keep = ModelCheckpoint(f"kept_{name}", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=8, accelerator="cpu", devices=2, strategy=ShardedStrategy(), accumulate_grad_batches=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[keep],
    )
    trainer.fit(model, data, ckpt_path=ckpt_path)
    layer = model.noise_layer
    assert isinstance(layer.weight, DTensor)
    found = {
        "seen": model.seen, "weight": layer.whole_weight().detach(), "share": layer.weight.to_local().detach(),
        "label_weights": layer.label_weights, "progress": layer.progress,
    }
    torch.save(found, f"{name}{trainer.global_rank}.pt")


train("whole")
train("resumed", "kept_whole/step=13.ckpt")  # two steps an epoch: in the middle of epoch 6, which is followed last
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded_following")
    write_photos(folder / "photos")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [python(), "script.py"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


def both(folder, name):
    return [torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_the_shared_layer_is_what_the_counts_of_both_processes_give(folder):
    ranks = both(folder, "whole")
    counts = np.zeros((3, 3))
    for rank in ranks:
        mine = [pair for epoch, *pair in rank["seen"] if epoch == EPOCHS - 2]
        assert len(mine) == 14, "three batches"
        for predicted, label in mine:
            counts[predicted, label] += 1
    matrix = (counts + 1 / 3) / (counts + 1 / 3).sum(axis=1, keepdims=True)
    weight = np.log(matrix.T)
    labelled = counts.sum(axis=0)
    balance = labelled**-0.5 * labelled.sum() / (labelled**0.5).sum()
    assert len(set(balance)) > 1, "the case shows nothing"
    for rank in ranks:
        np.testing.assert_allclose(rank["weight"].double().numpy(), weight, rtol=1e-5)
        np.testing.assert_allclose(rank["label_weights"].double().numpy(), balance, rtol=1e-6)
        assert rank["progress"].tolist() == [1, EPOCHS - 1, 2, 0]
    shares = [rank["share"] for rank in ranks]
    assert [len(share) for share in shares] == [2, 1]
    assert torch.equal(torch.cat(shares), ranks[0]["weight"])


def test_a_run_that_goes_on_in_mid_epoch_follows_all_of_its_images(folder):
    for whole, resumed in zip(both(folder, "whole"), both(folder, "resumed"), strict=True):
        assert {epoch for epoch, *_ in resumed["seen"]} == {EPOCHS - 2, EPOCHS - 1}
        assert sum(epoch == EPOCHS - 2 for epoch, *_ in resumed["seen"]) == 4, "two of three batches were before"
        for name in ("weight", "label_weights", "progress"):
            assert torch.equal(whole[name], resumed[name]), name
