"""What a network sees before it decides: the input of its last layer."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_noisy.models.build import clean_logits
from lightning_noisy.models.kinds import is_timm, is_transformers, timm_model_inside


class FeatureExtractor(nn.Module):
    """(B, C, H, W) images -> (B, D) features: what the classification layer of an image classifier is given.

    Args:
        model: Of timm, of transformers, or one's own that ends in a linear layer.

    Raises:
        ValueError: If it has no such layer.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head_name, _ = _classification_layer(model)

    def forward(self, images: Tensor) -> Tensor:
        found: list[Tensor] = []
        head = self.model.get_submodule(self.head_name)
        hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            clean_logits(self.model, images)
        finally:
            hook.remove()
        features = found[-1]
        return features.flatten(2).mean(dim=2) if features.ndim == 4 else features

    def weights(self) -> dict[str, Tensor]:
        """All weights that the features depend on: those of the classification layer are not among them."""
        state = self.model.state_dict()
        return {name: value for name, value in state.items() if not name.startswith(f"{self.head_name}.")}


@torch.no_grad()
def feature_size(extractor: FeatureExtractor, input_size: tuple[int, ...]) -> int:
    """``D``, from one black image of (C, H, W)."""
    parameter = next(extractor.parameters())
    return extractor(torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)).shape[1]


def _classification_layer(model: Any) -> tuple[str, nn.Module]:
    inside = timm_model_inside(model)
    timm_model = model if inside is None and is_timm(model) else inside
    if timm_model is not None and hasattr(timm_model, "get_classifier"):
        layer = timm_model.get_classifier()
        layer = layer[0] if isinstance(layer, tuple) else layer  # the others are of a distilled model
        for name, module in model.named_modules():
            if module is layer and not isinstance(layer, nn.Identity):
                return name, layer
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if is_transformers(model):
        linear = [(name, module) for name, module in linear if "classifier" in name.partition(".")[0]] or linear
    if not linear:
        raise ValueError(
            f"Expected argument `backbone` to be an image classifier that ends in a linear layer, but "
            f"{type(model).__name__} has none."
        )
    return linear[-1]
