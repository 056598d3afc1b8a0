"""The code on the card: it runs as pasted."""

from collections.abc import Mapping
from typing import Any

_IMAGE = 'image = Image.new("{mode}", (640, 480))  # or Image.open("photo.jpg").convert("{mode}")'

_TIMM = """import timm
import torch
from PIL import Image

model = timm.create_model("{name}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
{image}
with torch.no_grad():
    probabilities = model(transform(image)[None]).softmax(dim=1)[0]
best = probabilities.argmax().item()
print(model.pretrained_cfg["label_names"][best], probabilities[best].item())"""

_TRANSFORMERS = """import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{name}")
model = AutoModelForImageClassification.from_pretrained("{name}")
{image}
with torch.no_grad():
    logits = model(**processor(image, return_tensors="pt"){options}).logits
probabilities = logits.softmax(dim=1)[0]
best = probabilities.argmax().item()
print(model.config.id2label[best], probabilities[best].item())"""


def timm_snippet(repo_id: str | None, channels: int) -> str:
    """A prediction by plain timm, from the Hub or from the folder in which it is run."""
    return _TIMM.format(name=f"hf-hub:{repo_id}" if repo_id else "local-dir:.", image=_image(channels))


def transformers_snippet(repo_id: str | None, channels: int, forward_options: Mapping[str, Any]) -> str:
    """A prediction by plain transformers, from the Hub or from the folder in which it is run."""
    options = "".join(f", {name}={value}" for name, value in forward_options.items())
    return _TRANSFORMERS.format(name=repo_id or ".", image=_image(channels), options=options)


def _image(channels: int) -> str:
    return _IMAGE.format(mode="L" if channels == 1 else "RGB")
