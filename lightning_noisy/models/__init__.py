"""One way to build, inspect and save a timm or transformers image classifier."""

from lightning_noisy.models.adapters import add_adapter
from lightning_noisy.models.build import build_backbone, clean_logits, forward_options
from lightning_noisy.models.data_config import DEFAULT_DATA_CONFIG, resolve_data_config, set_image_size
from lightning_noisy.models.kinds import PROCESSOR, base_model_of, is_timm, is_transformers, timm_model_inside
from lightning_noisy.models.peft_models import adapter_config, is_peft_model, unwrap_peft
from lightning_noisy.models.saving import save_backbone, save_config
from lightning_noisy.models.spec import backbone_spec

__all__ = [
    "DEFAULT_DATA_CONFIG",
    "PROCESSOR",
    "adapter_config",
    "add_adapter",
    "backbone_spec",
    "base_model_of",
    "build_backbone",
    "clean_logits",
    "forward_options",
    "is_peft_model",
    "is_timm",
    "is_transformers",
    "resolve_data_config",
    "save_backbone",
    "save_config",
    "set_image_size",
    "timm_model_inside",
    "unwrap_peft",
]
