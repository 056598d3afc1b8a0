"""PEFT adapters in two processes on a CPU (gloo): DDP and FSDP through the Trainers."""

import pytest
import torch
from transformers import ViTForImageClassification

from lightning_noisy.hub import export_clean

from .processes import torchrun

pytestmark = pytest.mark.slow

TRAIN = """
import sys
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import Trainer, set_seed
from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyForImageClassification, NoisyTrainer
from lightning_noisy.hf.wrapping import noisy_model_inside
from small import NAMES, Images, arguments, tiny_vit

name, place, sharding, size, output, resumed = sys.argv[1:]
set_seed(0)
lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
noise = NoiseConfig(warmup_epochs=1, dropout=0.0)
native = tiny_vit()
if place == "around":
    model = get_peft_model(NoisyForImageClassification.from_backbone(native, noise, id2label=NAMES), lora)
else:
    model = NoisyForImageClassification.from_backbone(get_peft_model(native, lora), noise, id2label=NAMES)
options = {}
if sharding == "fsdp":
    options = {"fsdp": True, "fsdp_config": {"version": 1, "use_orig_params": True, "sync_module_states": False}}
args = arguments(
    output, num_train_epochs=3, per_device_train_batch_size=int(size), optim="sgd", learning_rate=0.1,
    max_grad_norm=0.0, save_strategy="steps", save_steps=9, logging_steps=3, **options,
)
trainer = {"NoisyTrainer": NoisyTrainer, "Trainer": Trainer}[name](model=model, args=args, train_dataset=Images())
if sharding == "fsdp":
    # On a CPU accelerate takes DDP in place of FSDP without a word.
    state = trainer.accelerator.state
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
    state.device, trainer.is_fsdp_enabled = torch.device("cpu"), True
trainer.train(resume_from_checkpoint=None if resumed == "no" else f"{output}/checkpoint-9")
noisy = noisy_model_inside(trainer.model)
counts = noisy.label_counts
if sharding == "fsdp":
    with FullyShardedDataParallel.summon_full_params(trainer.model):
        state = {key: value.clone() for key, value in noisy.state_dict().items()}
else:
    state = noisy.state_dict()
found = {"state": state, "counts": counts, "adapter": noisy.run_record.adapter}
torch.save(found, f"{output}/{args.world_size}-{resumed}-{args.process_index}.pt")
trainer.accelerator.end_training()
"""


def train(name, place, sharding, folder, resumed="no", processes=2):
    """What each process has at the end; one process takes batches of twice the size."""
    size = 4 // processes
    torchrun(TRAIN, name, place, sharding, size, folder, resumed, folder=folder, processes=processes)
    files = [folder / f"{processes}-{resumed}-{rank}.pt" for rank in range(processes)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize(
    ("name", "place", "sharding"),
    [
        ("Trainer", "around", "ddp"),
        ("NoisyTrainer", "around", "ddp"),
        ("Trainer", "inside", "ddp"),
        ("NoisyTrainer", "inside", "fsdp"),
    ],
)
def test_two_processes_train_an_adapter_as_one_and_resume(name, place, sharding, tmp_path):
    first, second = train(name, place, sharding, tmp_path)
    again = train(name, place, sharding, tmp_path, "yes")[0]
    [one] = train(name, place, "ddp", tmp_path, processes=1)
    for key, value in first["state"].items():
        assert torch.equal(second["state"][key], value), key
        assert torch.equal(again["state"][key], value), key
        torch.testing.assert_close(one["state"][key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert first["counts"].sum() == 24 and torch.equal(first["counts"], again["counts"])
    assert torch.equal(first["counts"], one["counts"])
    assert first["adapter"]["trained_parameters"] == one["adapter"]["trained_parameters"] == 307
    assert not torch.equal(first["state"]["noise_layer.weight"], torch.eye(3))
    if (place, sharding) == ("inside", "ddp"):
        folder = export_clean(tmp_path / "checkpoint-18", tmp_path / "clean", "mit")
        head = ViTForImageClassification.from_pretrained(folder).classifier.weight
        assert torch.equal(head, one["state"]["backbone.classifier.modules_to_save.default.weight"])


def test_an_adapter_around_a_sharded_model_ends_in_one_sentence(tmp_path):
    ran = torchrun(TRAIN, "Trainer", "around", "fsdp", 2, tmp_path, "no", folder=tmp_path, succeeds=False)
    assert ran.returncode != 0
    assert "Expected the adapter inside the noisy model under FSDP" in ran.stderr
