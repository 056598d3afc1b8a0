"""The image processor beside a model, so that ``AutoImageProcessor`` and pipelines find it."""

import json
from pathlib import Path
from typing import Any

from lightning_noisy.models.data_config import resolve_data_config
from lightning_noisy.models.kinds import timm_model_inside
from lightning_noisy.models.transformers_models import image_processor_for


def save_processor(backbone: Any, directory: Path) -> None:
    """Writes the processor's config for a model that is not saved by itself: it is inside another one, or under one.

    A wrapped timm model's processor reads the model's own ``config.json``, which is not there: it goes into
    ``processor_config.json``, which transformers looks at first.
    """
    data_config = resolve_data_config(backbone)
    if timm_model_inside(backbone) is None:
        content, name = image_processor_for(backbone, data_config), "preprocessor_config.json"
    else:
        processor = {
            "image_processor_type": "TimmWrapperImageProcessor",
            "architecture": backbone.config.architecture,
            "pretrained_cfg": {**(getattr(backbone.config, "pretrained_cfg", None) or {}), **data_config},
        }
        content, name = {"image_processor": processor}, "processor_config.json"
    (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
