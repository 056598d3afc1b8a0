"""Two processes on a CPU (gloo), launched by torchrun: DDP through the Trainers, and FSDP's sharding of the model."""

import pytest
import torch
from transformers import Trainer

from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyForImageClassification, NoisyTrainer
from lightning_noisy.hub import export_clean

from .processes import torchrun
from .small import Images, arguments, batch, noisy_vit

pytestmark = pytest.mark.slow

TRAIN = """
import sys
import torch
from transformers import Trainer
from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyTrainer
from small import Images, arguments, noisy_vit

name, output = sys.argv[1:]
model = noisy_vit(NoiseConfig(dropout=0.0))
args = arguments(
    output, num_train_epochs=4, per_device_train_batch_size=2, optim="sgd", max_grad_norm=0.0, save_strategy="epoch",
    logging_steps=3, eval_strategy="epoch",
)
trainer = {"NoisyTrainer": NoisyTrainer, "Trainer": Trainer}[name](
    model=model, args=args, train_dataset=Images(), eval_dataset=Images(16)
)
trainer.train()
rank = trainer.args.process_index
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
found = {
    "state": model.state_dict(), "counts": model.run_record.label_counts, "losses": losses, "world": args.world_size,
    "progress": model.noise_layer.progress.tolist(),
}
torch.save(found, f"{output}/rank{rank}.pt")
trainer.accelerator.end_training()
"""

SHARD = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainerState, TrainingArguments
from lightning_noisy.hf import NoiseLayerCallback
from small import batch, noisy_vit

output = sys.argv[1]
dist.init_process_group("gloo")
rank = dist.get_rank()
model = noisy_vit().train()
mesh = init_device_mesh("cpu", (2,))
wrapped = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
for module in wrapped:
    fully_shard(module, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)  # one group, as the plain Trainer's
images, labels = batch(4)
loss = model(images[2 * rank : 2 * rank + 2], labels=labels[2 * rank : 2 * rank + 2]).loss
loss.backward()
callback, state = NoiseLayerCallback(), TrainerState(num_train_epochs=1)
about = {"model": model, "optimizer": optimizer}
callback.on_train_begin(TrainingArguments(output, use_cpu=True), state, None, **about)
optimizer.step()
dcp.save({"model": model.state_dict()}, checkpoint_id=f"{output}/checkpoint-1/pytorch_model_fsdp_0")
trace = model.transition_matrix().trace()
if rank == 0:
    model.config.save_pretrained(f"{output}/checkpoint-1")
    model.save_companions(Path(f"{output}/checkpoint-1"))
    torch.save({"wrapped": len(wrapped), "trace": trace}, f"{output}/facts.pt")
dist.destroy_process_group()
"""

FSDP_1 = """
import sys
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import Trainer
from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyTrainer
from small import Images, arguments, noisy_vit

name, use_orig_params, output = sys.argv[1:]
model = noisy_vit(NoiseConfig(dropout=0.0))
args = arguments(
    output, num_train_epochs=4, per_device_train_batch_size=2, optim="sgd", max_grad_norm=0.0, logging_steps=3,
    fsdp=True, fsdp_config={"version": 1, "use_orig_params": use_orig_params == "True", "sync_module_states": False},
)
trainer = {"NoisyTrainer": NoisyTrainer, "Trainer": Trainer}[name](model=model, args=args, train_dataset=Images())
# On a CPU accelerate takes DDP in place of FSDP without a word, and its device "cpu:0" is none that FSDP 1 knows.
state = trainer.accelerator.state
state.distributed_type = DistributedType.FSDP
state.fsdp_plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
state.device, trainer.is_fsdp_enabled = torch.device("cpu"), True
trainer.train()
assert isinstance(trainer.model, FullyShardedDataParallel)
layer, share = model.noise_layer, model.noise_layer.weight.shape
with FullyShardedDataParallel.summon_full_params(trainer.model):
    found = {
        "state": {key: value.clone() for key, value in model.state_dict().items()}, "share": share,
        "label_weights": layer.label_weights, "progress": layer.progress,
        "counts": model.run_record.label_counts,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
torch.save(found, f"{output}/rank{trainer.args.process_index}.pt")
trainer.accelerator.end_training()
"""


@pytest.mark.parametrize("name", ["NoisyTrainer", "Trainer"])
def test_two_processes_train_as_one_with_the_doubled_batch(name, tmp_path):
    torchrun(TRAIN, name, tmp_path / "two", folder=tmp_path)
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["world"] == 2
    model = noisy_vit(NoiseConfig(dropout=0.0))
    options = {"optim": "sgd", "max_grad_norm": 0.0, "logging_steps": 3, "eval_strategy": "epoch"}
    args = arguments(tmp_path / "one", num_train_epochs=4, **options)
    trainer_class = NoisyTrainer if name == "NoisyTrainer" else Trainer
    trainer = trainer_class(model=model, args=args, train_dataset=Images(), eval_dataset=Images(16))
    trainer.train()
    assert first["progress"] == second["progress"] == model.noise_layer.progress.tolist()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert first["losses"] == pytest.approx(losses, rel=1e-4)
    for key, value in model.state_dict().items():
        assert torch.equal(first["state"][key], second["state"][key]), key
        torch.testing.assert_close(first["state"][key], value, rtol=1e-4, atol=1e-6)
    assert first["counts"] == second["counts"] == model.run_record.label_counts
    assert sum(count for _, _, count in first["counts"]) == 24
    loaded = NoisyForImageClassification.from_pretrained(tmp_path / "two" / "checkpoint-24")
    assert torch.equal(loaded.noise_layer.weight, first["state"]["noise_layer.weight"])
    assert loaded.run_record.processes == 2
    export_clean(tmp_path / "two" / "checkpoint-24", tmp_path / "clean", license="mit")


def test_a_sharded_model_steps_as_a_whole_one_and_its_shards_export(tmp_path):
    torchrun(SHARD, tmp_path, folder=tmp_path)
    facts = torch.load(tmp_path / "facts.pt", weights_only=True)
    assert facts["wrapped"] == 3, "two ViTLayers and the embeddings"
    model = noisy_vit().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    images, labels = batch(4)
    model(images, labels=labels).loss.backward()
    optimizer.step()
    assert facts["trace"].item() == pytest.approx(model.transition_matrix().trace().item(), rel=1e-5)
    folder = export_clean(tmp_path / "checkpoint-1", tmp_path / "clean", license="mit")
    again = NoisyForImageClassification.from_backbone(folder, noise="export")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["NoisyTrainer", "Trainer"])
def test_under_fsdp_1_the_layer_follows_the_counts_of_all_processes_as_in_one(name, tmp_path):
    torchrun(FSDP_1, name, True, tmp_path / "two", folder=tmp_path)
    ranks = [torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert sum(rank["share"].numel() for rank in ranks) == 9, "flattened and shared out"
    model = noisy_vit(NoiseConfig(dropout=0.0))
    args = arguments(tmp_path / "one", num_train_epochs=4, optim="sgd", max_grad_norm=0.0, logging_steps=3)
    trainer = NoisyTrainer(model=model, args=args, train_dataset=Images())
    trainer.train()
    layer = model.noise_layer
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert not torch.allclose(layer.weight, torch.eye(3), atol=0.1)
    for rank in ranks:
        assert torch.equal(rank["progress"], layer.progress)
        assert rank["losses"] == pytest.approx(losses, rel=1e-4)
        assert rank["counts"] == model.run_record.label_counts
        assert torch.equal(rank["label_weights"], layer.label_weights)
        for key, value in model.state_dict().items():
            torch.testing.assert_close(rank["state"][key], value, rtol=1e-4, atol=1e-5, msg=key)
            assert torch.equal(rank["state"][key], ranks[0]["state"][key])


def test_fsdp_1_that_melts_the_parameters_together_ends_in_one_sentence(tmp_path):
    ran = torchrun(FSDP_1, "NoisyTrainer", False, tmp_path / "two", folder=tmp_path, succeeds=False)
    assert ran.returncode != 0
    said = ("Expected FSDP to leave the noise layer a parameter of its own", "uniform `requires_grad`")
    assert any(sentence in ran.stderr for sentence in said)
