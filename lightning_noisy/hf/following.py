"""What a noise layer learns from the counts of each epoch, over the checkpoints of the transformers Trainer."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from lightning_noisy.hf.model import NoisyForImageClassification
from lightning_noisy.noise.counting import sum_over_ranks
from lightning_noisy.noise.warmup import Warmup

STATE_KEY = "NoiseLayerCallback"
"""Where the Trainer's state, and so a checkpoint's ``trainer_state.json``, holds it."""


def plan_warmup(model: NoisyForImageClassification, args: TrainingArguments, state: TrainerState, loader: Any) -> None:
    """Works out the length of the warm-up from that of the training."""
    if (layer := model.noise_layer) is None:
        return
    steps_per_epoch = math.inf
    if loader is not None and has_length(loader):
        steps_per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
    layer.warmup = Warmup.plan(layer.config, state.max_steps / max(steps_per_epoch, 1), steps_per_epoch)


def check_processes(model: NoisyForImageClassification, args: TrainingArguments) -> None:
    """Looks whether the noise layer can be told what the processes count, and stepped on its own.

    Raises:
        ValueError: If one process drives several GPUs, or FSDP 1 has flattened the parameters into one.
    """
    layer = model.noise_layer
    if layer is None:
        return
    config = layer.config
    if args.n_gpu > 1 and (config.follows_counts or config.class_balance or config.rescue_below):
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


def keep_counts(model: NoisyForImageClassification, state: TrainerState, epoch: int) -> None:
    """Puts the counts so far, and what the layer has taken from the last ones, into what the Trainer is about to save.

    Every process must call it.
    """
    layer, counts = model.noise_layer, None
    if layer is None:
        return
    if model.label_counts is not None:
        summed = sum_over_ranks(model.label_counts)
        predicted, labels = pairs = torch.nonzero(summed, as_tuple=True)
        counts = [
            list(triple) for triple in zip(predicted.tolist(), labels.tolist(), summed[pairs].tolist(), strict=True)
        ]
    kept = {
        "epoch": epoch,
        "counts": counts,
        "label_weights": None if layer.label_weights is None else layer.label_weights.tolist(),
        "rescued": None if layer.rescued is None else layer.rescued.tolist(),
        "warmup": layer.warmup.state_dict(),
        "confidence": None if model.confidence is None else float(sum_over_ranks(model.confidence)),
        "validation_sums": None if model.validation_sums is None else sum_over_ranks(model.validation_sums).tolist(),
    }
    cast(dict[str, Any], state.stateful_callbacks)[STATE_KEY] = {"args": {}, "attributes": {"kept": kept}}


def restore_counts(model: NoisyForImageClassification, state: TrainerState, rank: int) -> None:
    """Goes on with what :func:`keep_counts` has put into the state of a checkpoint, if it has."""
    layer = model.noise_layer
    if layer is None:
        return
    layer.label_weights = layer.rescued = None
    kept = cast(dict[str, Any], state.stateful_callbacks).get(STATE_KEY, {}).get("attributes", {}).get("kept")
    if kept is None:
        return
    if layer.config.warmup_epochs == "auto" and "warmup" in kept:
        layer.warmup = Warmup(**kept["warmup"])
    layer.label_weights, layer.rescued = (
        None if values is None else torch.tensor(values) for values in (kept["label_weights"], kept["rescued"])
    )
    model.set_epoch(kept["epoch"])
    if (validated := kept.get("validation_sums")) is not None:  # those of all processes: the others go on with none
        model.validation_sums = torch.tensor(validated, device=model.device) * (rank == 0)
    if kept["counts"] is not None:
        counts = torch.zeros(layer.num_classes, layer.num_classes)
        if rank == 0:
            triples = torch.tensor(kept["counts"], dtype=torch.float64).reshape(-1, 3)
            counts[triples[:, 0].long(), triples[:, 1].long()] = triples[:, 2].float()
        model.label_counts = counts.to(model.device)
        model.confidence = torch.tensor(kept.get("confidence", 0.0) * (rank == 0), device=model.device)


@contextlib.contextmanager
def own_weights_whole(wrapped: nn.Module) -> Iterator[None]:
    """Under FSDP 1, which flattens weights, those outside its blocks are whole, and may be written, for a moment."""
    if isinstance(wrapped, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(wrapped, recurse=False):
            yield
    else:
        yield
