"""What an epoch has shown, over the checkpoints of the transformers Trainer."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import TrainerState, TrainingArguments

from lightning_noisy.hf.model import NoisyForImageClassification
from lightning_noisy.noise.epoch_counts import EpochCounts

STATE_KEY = "NoiseLayerCallback"
"""The callback's name, under which the Trainer's state, and so a checkpoint's ``trainer_state.json``, holds it."""
COUNTS_KEY = "epoch_counts"


def check_processes(model: NoisyForImageClassification, args: TrainingArguments) -> None:
    """Looks whether the noise layer can be told what the processes count, and stepped on its own.

    Raises:
        ValueError: If one process drives several GPUs, or FSDP 1 has flattened the parameters into one.
    """
    layer = model.noise_layer
    if layer is None:
        return
    if args.n_gpu > 1:
        raise ValueError(
            f"Expected a process for each GPU, but got one process for {args.n_gpu} of them (DataParallel), in which "
            f"the noise layer's counts get lost. Start the script by `torchrun --nproc_per_node={args.n_gpu}`, or set "
            "CUDA_VISIBLE_DEVICES to one GPU."
        )
    if not isinstance(layer.weight, nn.Parameter):
        raise ValueError(
            "Expected FSDP to leave the noise layer a parameter of its own, but got `use_orig_params` False in "
            "`fsdp_config`. Leave it out, or use `version` 2 of FSDP."
        )


def exported_counts(model: NoisyForImageClassification | None, of_this_process: bool) -> dict[str, Any]:
    """What the Trainer's state keeps of the epoch under way, for JSON.

    Args:
        model: ``None``, and a model that has not been trained, have nothing to keep.
        of_this_process: As of :meth:`EpochCounts.state_dict
            <lightning_noisy.noise.epoch_counts.EpochCounts.state_dict>`.
    """
    if model is None or model.epoch_counts.epoch is None:
        return {"args": {}, "attributes": {}}
    kept = _to_lists(model.epoch_counts.state_dict(of_this_process))
    return {"args": {}, "attributes": {COUNTS_KEY: kept}}


def restore_counts(
    model: NoisyForImageClassification, state: TrainerState, rank: int, epoch_anew: bool = False
) -> None:
    """Resumes what the state of a checkpoint has kept of its epoch, if it has; else nothing is counted yet.

    Args:
        model: Whose counts they are.
        state: Of the Trainer; one that begins anew, at step 0, has only what an earlier training has left.
        rank: Of this process.
        epoch_anew: Whether an epoch that the checkpoint broke off begins anew (``ignore_data_skip``).
    """
    model.epoch_counts = EpochCounts()
    kept = cast(dict[str, Any], state.stateful_callbacks).get(STATE_KEY, {}).get("attributes", {}).get(COUNTS_KEY)
    if kept is None or state.global_step == 0:
        return
    if epoch_anew and kept["epoch"] == int(state.epoch or 0):
        kept = {**kept, "so_far": None}
    model.epoch_counts.load_state_dict(kept, model.device, rank)


def _to_lists(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return {name: _to_lists(item) for name, item in value.items()} if isinstance(value, Mapping) else value


@contextlib.contextmanager
def own_weights_whole(wrapped: nn.Module) -> Iterator[None]:
    """Under FSDP 1, which flattens weights, those outside its blocks are whole, and may be written, for a moment."""
    if isinstance(wrapped, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(wrapped, recurse=False):
            yield
    else:
        yield
