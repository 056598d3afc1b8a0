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

_TIMM_ADAPTER = """import json
import timm
import torch
from peft import PeftModel
from PIL import Image
{imports}
config = json.load(open({config}))
base = timm.create_model("hf-hub:{base}", pretrained=True, num_classes=config["num_classes"], **config["model_args"])
model = PeftModel.from_pretrained(base, "{name}").eval()
transform = timm.data.create_transform(
    **timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"]), is_training=False
)
{image}
with torch.no_grad():
    probabilities = model(transform(image)[None]).softmax(dim=1)[0]
best = probabilities.argmax().item()
print(config["label_names"][best], probabilities[best].item())"""

_TRANSFORMERS_ADAPTER = """import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{name}")
config = AutoConfig.from_pretrained("{name}")
base = AutoModelForImageClassification.from_pretrained("{base}", config=config, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(base, "{name}").eval()
{image}
with torch.no_grad():
    logits = model(**processor(image, return_tensors="pt"){options}).logits
probabilities = logits.softmax(dim=1)[0]
best = probabilities.argmax().item()
print(config.id2label[best], probabilities[best].item())"""


def timm_adapter_snippet(repo_id: str | None, base: str, channels: int) -> str:
    """A prediction by plain timm and PEFT, the adapter from the Hub or from the folder in which it is run."""
    imports = "from huggingface_hub import hf_hub_download\n" if repo_id else ""
    config = f'hf_hub_download("{repo_id}", "config.json")' if repo_id else '"config.json"'
    return _TIMM_ADAPTER.format(name=repo_id or ".", base=base, imports=imports, config=config, image=_image(channels))


def transformers_adapter_snippet(
    repo_id: str | None, base: str, channels: int, forward_options: Mapping[str, Any]
) -> str:
    """A prediction by plain transformers and PEFT, the adapter from the Hub or from the folder in which it is run."""
    options = _call_options(forward_options)
    return _TRANSFORMERS_ADAPTER.format(name=repo_id or ".", base=base, image=_image(channels), options=options)


def timm_snippet(repo_id: str | None, channels: int) -> str:
    """A prediction by plain timm, from the Hub or from the folder in which it is run."""
    return _TIMM.format(name=f"hf-hub:{repo_id}" if repo_id else "local-dir:.", image=_image(channels))


def transformers_snippet(repo_id: str | None, channels: int, forward_options: Mapping[str, Any]) -> str:
    """A prediction by plain transformers, from the Hub or from the folder in which it is run."""
    options = _call_options(forward_options)
    return _TRANSFORMERS.format(name=repo_id or ".", image=_image(channels), options=options)


def _call_options(forward_options: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value}" for name, value in forward_options.items())


def _image(channels: int) -> str:
    return _IMAGE.format(mode="L" if channels == 1 else "RGB")
