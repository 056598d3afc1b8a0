"""The config of a transformers image classifier that trains through a noise layer."""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from lightning_noisy.noise import NoiseConfig
from lightning_noisy.noise.config import resolve_noise_config


class NoisyImageClassificationConfig(PreTrainedConfig):
    """A native image classifier's config and the description of the noise layer on top of it.

    Args:
        backbone_config: The config of a transformers image classifier, or its dict with ``model_type``.
        noise: A :class:`~lightning_noisy.NoiseConfig`, its dict, or ``None`` for plain cross-entropy.
        adapter: The config of the PEFT adapter inside the backbone, ``None`` without.

    Raises:
        ValueError: If there is no backbone, or the noise layer has another number of classes.
    """

    model_type = "noisy_image_classification"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012, transformers' own way
    keys_to_ignore_at_inference = ["noisy_log_probs"]  # noqa: RUF012
    has_no_defaults_at_init = True

    backbone_config: dict | PreTrainedConfig | None = None
    noise: dict | None = None
    adapter: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        backbone: Any = self.backbone_config
        if isinstance(backbone, Mapping) and backbone.get("model_type") in CONFIG_MAPPING:
            backbone = CONFIG_MAPPING[backbone["model_type"]].from_dict(dict(backbone))
        if not isinstance(backbone, PreTrainedConfig):
            raise ValueError(
                "Expected argument `backbone_config` to be the config of a transformers image classifier, but got "
                f"{type(backbone).__name__}. A plain model gets a noise layer by "
                "`NoisyForImageClassification.from_backbone(...)`."
            )
        self.backbone_config = backbone
        if self.id2label is None and "num_labels" not in kwargs:
            names: Any = backbone.id2label
            self.id2label = dict(names)
            self.label2id = {str(name): int(label) for label, name in names.items()}
        kwargs.setdefault("attn_implementation", backbone._attn_implementation)  # None would be set in the backbone too
        super().__post_init__(**kwargs)
        if self.noise is not None:
            self.noise = resolve_noise_config(self.noise, self.num_labels).to_dict()

    @property
    def noise_config(self) -> NoiseConfig | None:
        """The description of the noise layer, if there is one."""
        return None if self.noise is None else NoiseConfig.from_dict(self.noise)
