"""Arguments of the transformers Trainer that a model with a noise layer can't take, said before the training."""

from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

from lightning_noisy import models
from lightning_noisy.hf.model import NoisyForImageClassification


def check_arguments(model: NoisyForImageClassification, args: TrainingArguments) -> None:
    """Looks at what would else end in an error of others, or leave an evaluation without a loss.

    Raises:
        ValueError: If ``label_names`` leaves out the labels, there are no embeddings for ``neftune_noise_alpha``, or
            reentrant checkpoints would keep an adapter from learning.
    """
    if args.label_names is not None and "labels" not in args.label_names:
        raise ValueError(
            "Expected argument `label_names` to have 'labels', as a NoisyForImageClassification calls them, but got "
            f"{args.label_names}: evaluations would have neither a loss nor metrics. Leave it out; a column 'label' of "
            "the data becomes 'labels' by itself, another one by `data.rename_column(...)`."
        )
    if args.neftune_noise_alpha is not None and not _has_embeddings(model):
        raise ValueError(
            f"Expected argument `neftune_noise_alpha` to be None, but got {args.neftune_noise_alpha}: a "
            f"{type(model.backbone).__name__} has no embeddings that noise could be added to. Leave it out."
        )
    if models.adapter_config(model) or models.adapter_config(model.backbone):
        _check_checkpointing(args)


def _check_checkpointing(args: TrainingArguments) -> None:
    """Reentrant checkpoints pass no gradient on where their input, of frozen embeddings, needs none."""
    given = getattr(args, "activation_checkpointing_kwargs", None) or args.gradient_checkpointing_kwargs
    is_on = getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing
    if is_on and isinstance(given, Mapping) and given.get("use_reentrant"):
        raise ValueError(
            "Expected `use_reentrant` of the checkpointing arguments to be False for a model with an adapter, but got "
            "True: no gradient would reach the adapter. Leave it out."
        )


def check_columns(args: TrainingArguments, train_dataloader: Any) -> None:
    """Looks whether the Trainer has taken the images away from a data set of ``datasets``.

    Raises:
        ValueError: If it has, as ``remove_unused_columns`` makes it do where a transform has yet to prepare them.
    """
    columns = getattr(getattr(train_dataloader, "dataset", None), "column_names", None)
    if args.remove_unused_columns and isinstance(columns, list) and "pixel_values" not in columns:
        raise ValueError(
            "Expected argument `remove_unused_columns` to be False for data whose images become `pixel_values` in a "
            "transform or a collator, but got True, which takes all other columns away before; what is left is "
            f"{columns}. Set `remove_unused_columns=False`."
        )


def _has_embeddings(model: NoisyForImageClassification) -> bool:
    try:
        embeddings: Any = model.get_input_embeddings()
    except NotImplementedError:
        return False
    return embeddings is not None
