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

STATE_KEY = "NoiseLayerCallback"
"""Where the Trainer's state, and so a checkpoint's ``trainer_state.json``, holds it."""


def plan_warmup(model: NoisyForImageClassification, args: TrainingArguments, state: TrainerState, loader: Any) -> None:
    """Works out the length of the warm-up from that of the training."""
    if (layer := model.noise_layer) is None:
        return
    steps_per_epoch = math.inf
    if loader is not None and has_length(loader):
        steps_per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
    layer.warmup_epochs = layer.config.warmup_for(state.max_steps / max(steps_per_epoch, 1), steps_per_epoch)


def keep_counts(model: NoisyForImageClassification, state: TrainerState, epoch: int) -> None:
    """Puts the counts so far, and what the layer has taken from the last ones, into what the Trainer is about to save.

    Every process must call it.
    """
    layer, counts = model.noise_layer, None
    if layer is None:
        return
    if model.label_counts is not None:
        summed = sum_over_ranks(model.label_counts)
        pairs = torch.nonzero(summed)
        counts = [[*pair, summed[*pair].item()] for pair in pairs.tolist()]
    kept = {
        "epoch": epoch,
        "counts": counts,
        "label_weights": None if layer.label_weights is None else layer.label_weights.tolist(),
        "rescued": None if layer.rescued is None else layer.rescued.tolist(),
        "warmup_epochs": layer.warmup_epochs,
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
    layer.warmup_epochs = kept["warmup_epochs"]
    layer.label_weights, layer.rescued = (
        None if values is None else torch.tensor(values) for values in (kept["label_weights"], kept["rescued"])
    )
    if kept["counts"] is not None:
        counts = torch.zeros(layer.num_classes, layer.num_classes)
        if rank == 0:  # those of all processes: the others go on with none
            for predicted, label, count in kept["counts"]:
                counts[predicted, label] = count
        model.set_epoch(kept["epoch"])
        model.label_counts = counts.to(model.device)


@contextlib.contextmanager
def own_weights_whole(wrapped: nn.Module) -> Iterator[None]:
    """Under FSDP 1, which flattens weights, those outside its blocks are whole, and may be written, for a moment."""
    if isinstance(wrapped, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(wrapped, recurse=False):
            yield
    else:
        yield
