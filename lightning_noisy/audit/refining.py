"""What pretrained features tell of the labels of any data set, for transformers' Trainer or a loop of one's own."""

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import default_data_collator

from lightning_noisy.audit.judging.refinement import RefinedLabels, refine
from lightning_noisy.hf import NoisyForImageClassification
from lightning_noisy.models.features import FeatureExtractor
from lightning_noisy.training.batches import LABEL_KEYS, as_image_batch


def refine_labels(
    model: nn.Module, dataset: Dataset[Any], *, batch_size: int = 64, num_workers: int = 0, seed: int = 0
) -> RefinedLabels:
    """Looks at all images once with a pretrained network, and judges the given labels by what it sees.

    As :class:`~lightning_noisy.audit.label_refinement.LabelRefinement` does it for Lightning: a linear probe out of
    fold and the nearest images, with the noise layer fitted to both. In several processes each one looks at a part of
    the images, and all of them get the same. The features of all images are in memory, N x D in half precision.

    Args:
        model: A :class:`~lightning_noisy.hf.NoisyForImageClassification` or another image classifier, with the
            pretrained weights.
        dataset: Gives images as the network wants them, not augmented, and integer labels: ``{"pixel_values": (C, H,
            W), "labels": int}`` or a tuple.
        batch_size: Images at once.
        num_workers: Processes that read images.
        seed: Draws the folds.

    Raises:
        ValueError: If the data set gives something else, or labels of other classes, or the network does not end in a
            linear layer.
    """
    backbone = model.backbone if isinstance(model, NoisyForImageClassification) else model
    state = PartialState()
    with state.split_between_processes(list(range(len(dataset)))) as rows:  # type: ignore[arg-type]
        loader = DataLoader(Subset(dataset, rows), batch_size, num_workers=num_workers, collate_fn=_collate)
        found = _look_at_all(FeatureExtractor(backbone), loader, state)
    parts = gather_object([found])
    features, labels = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    names = _class_names(model, labels)
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise ValueError(
            f"Expected the labels of `dataset` to lie in 0..{len(names) - 1}, the classes of the model, but got labels "
            f"from {int(labels.min())} to {int(labels.max())}. Check `id2label` and the label column."
        )
    judged = [refine(features, labels, names, seed, state.device)]
    refined: RefinedLabels = broadcast_object_list(judged)[0]
    if refined.soft_labels is None:
        rank_zero_warn(f"Train on the given labels as they are: {refined.caution}.")
    else:
        rank_zero_info(
            f"Judging by the pretrained features, about {refined.error_rate:.0%} of the {len(labels):,} labels are "
            "wrong."
        )
    return refined


def _class_names(model: Any, labels: Tensor) -> list[str]:
    names = getattr(getattr(model, "config", None), "id2label", None)
    return [str(names[label]) for label in sorted(names)] if names else [str(x) for x in range(int(labels.max()) + 1)]


@torch.inference_mode()
def _look_at_all(extractor: FeatureExtractor, loader: DataLoader, state: PartialState) -> tuple[Tensor, Tensor]:
    """(M, D) float16 and (M,) of this process."""
    model = extractor.model
    first = next(model.parameters())
    device, modes = first.device, {module: module.training for module in model.modules()}
    extractor.to(state.device).eval()
    features, labels = [], []
    try:
        for given in track(loader, "Looking at all images once", disable=not state.is_main_process):
            batch = as_image_batch(given)
            features.append(extractor(batch.images.to(state.device, first.dtype)).half().cpu())
            labels.append(batch.noisy_labels.cpu())
    finally:
        model.to(device)
        for module, training in modes.items():  # a batch norm that is frozen stays so
            module.training = training
    return torch.cat(features), torch.cat(labels)


def _collate(rows: list[Any]) -> Any:
    """Dicts as the Trainer puts them together, tuples as torch does."""
    if not isinstance(rows[0], dict):
        return torch.utils.data.default_collate(rows)
    collated = default_data_collator(rows)
    return {"labels" if name in LABEL_KEYS else name: value for name, value in collated.items()}
