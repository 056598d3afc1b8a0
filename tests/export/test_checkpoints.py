"""Sharded checkpoints, made by Lightning in two processes and by hand."""

import os
import pickle
import subprocess

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.hub import export_clean

from ..quick import python

SHARDED = """
import sys
import lightning.pytorch as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset
from lightning_noisy import NoisyImageClassifier
from lightning_noisy.models.layer_groups import block_classes


class Sharded(NoisyImageClassifier):
    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        names = block_classes(self.backbone)
        for module in self.backbone.modules():
            if type(module).__name__ in names:
                fully_shard(module, mesh=mesh)
        fully_shard(self.backbone, mesh=mesh)


L.seed_everything(0)
images, labels = torch.randn(24, 3, 32, 32), torch.arange(24) % 3
model = Sharded(
    "timm:test_vit", 3, ["ant", "bee", "cat"], pretrained=False, image_size=32, backbone_kwargs={"patch_size": 8},
    noise={  # fixed, since this strategy does not average the gradients of what is not sharded
        "noise_type": "stochastic", "trainable": False, "warmup_epochs": 1,
        "transition_matrix": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]],
    },
)
trainer = L.Trainer(
    accelerator="cpu", devices=2, max_epochs=2, logger=False, enable_progress_bar=False, enable_checkpointing=False,
    strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=True),
)
trainer.fit(model, DataLoader(TensorDataset(images, labels), batch_size=4))
trainer.save_checkpoint("sharded.ckpt")
state = model.state_dict()
whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}
if trainer.is_global_zero:
    torch.save(whole, "whole.pt")
"""


@pytest.mark.slow
def test_shards_of_two_processes_export_in_one(tmp_path):
    (tmp_path / "script.py").write_text(SHARDED, encoding="utf-8")
    command = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "script.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (tmp_path / "sharded.ckpt" / "__1_0.distcp").is_file()
    trained = load_checkpoint(tmp_path / "sharded.ckpt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    for name, value in trained.clean_model.state_dict().items():
        assert torch.equal(value, whole[f"backbone.{name}"]), name
    assert torch.equal(trained.noise_layer.weight, whole["noise_layer.weight"])
    assert trained.record.processes == 2
    export_clean(tmp_path / "sharded.ckpt", tmp_path / "clean", license="mit")


def sharded(checkpoint, folder, key="model"):
    """The same checkpoint as Lightning's FSDPStrategy lays it out."""
    content = torch.load(checkpoint, weights_only=True)
    dcp.save({key: content.pop("state_dict")}, checkpoint_id=str(folder))
    torch.save(content, folder / "meta.pt")
    return folder


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_folder_of_shards_is_the_same_model(key, lightning_checkpoint, tmp_path):
    trained = load_checkpoint(sharded(lightning_checkpoint, tmp_path / "shards", key))
    module = NoisyImageClassifier.load_from_checkpoint(lightning_checkpoint, weights_only=True)
    assert torch.equal(trained.noise_layer.weight, module.noise_layer.weight)
    assert trained.record.data["train_images"] > 0


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_an_index_that_would_run_code_is_refused(lightning_checkpoint, tmp_path):
    folder = sharded(lightning_checkpoint, tmp_path / "shards")
    for content in (pickle.dumps(Harmful()), b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.", b"", b"nonsense"):
        (folder / ".metadata").write_bytes(content)
        with pytest.raises(ValueError, match="to be the index of a sharded checkpoint"):
            export_clean(folder, tmp_path / "clean", license="mit")
    assert not (tmp_path / "harmed").exists() and not os.path.exists("harmed")


def test_shards_without_a_model(lightning_checkpoint, tmp_path):
    folder = sharded(lightning_checkpoint, tmp_path / "shards", key="something")
    with pytest.raises(ValueError, match="hold none"):
        export_clean(folder, tmp_path / "clean", license="mit")
