"""Transforms from the backbone's own data config, by timm."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from timm.data import create_transform
from timm.data.transforms import MaybeToTensor
from torchvision.transforms import Compose, Grayscale

from lightning_noisy.data.loader import Transform
from lightning_noisy.models import DEFAULT_DATA_CONFIG


def data_config_for(trainer: Any, image_size: int | None) -> dict[str, Any]:
    """How the module of the Trainer wants its images.

    Args:
        trainer: May be ``None``.
        image_size: Side of the images in pixels, where it is not to be the module's own.
    """
    module = None if trainer is None else trainer.lightning_module
    config = dict(getattr(module, "data_config", DEFAULT_DATA_CONFIG))
    if image_size is not None:
        config["input_size"] = (config["input_size"][0], image_size, image_size)
    return config


def make_transform(data_config: Mapping[str, Any], augmentation: Mapping[str, Any] | None) -> Transform:
    """The training transform with ``augmentation`` put over the config, or the evaluation transform without it.

    Where the network takes one channel the images are made grey, after all that changes colours.

    Raises:
        ValueError: If the network takes neither one channel nor three.
    """
    channels = data_config["input_size"][0]
    if channels not in (1, 3):
        raise ValueError(
            f"Expected the backbone to take images of 1 or 3 channels, but it takes {channels}: no image file that can "
            "be read here has as many. Set `backbone_kwargs` to `{in_chans: 3}`, or give the Trainer loaders of your "
            "own."
        )
    config = {**data_config, **(augmentation or {})}
    transform = create_transform(**config, is_training=augmentation is not None)
    if channels == 3:
        return transform
    steps = list(transform.transforms)
    to_tensor = next(place for place, step in enumerate(steps) if isinstance(step, MaybeToTensor))
    return Compose([*steps[:to_tensor], Grayscale(), *steps[to_tensor:]])


def check_augmentation(augmentation: Mapping[str, Any]) -> None:
    """Raises a :class:`ValueError` for a key that ``timm.data.create_transform`` does not know."""
    known = set(inspect.signature(create_transform).parameters) - {"is_training", "use_prefetcher", "naflex"}
    for key in augmentation:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else f" Known keys: {sorted(known)}."
            raise ValueError(
                f"Expected the keys of argument `augmentation` to be those of timm.data.create_transform, but got "
                f"{key!r}.{hint}"
            )
