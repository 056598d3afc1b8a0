"""Small networks of transformers, with random weights."""

import transformers
from transformers import AutoModelForImageClassification

TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}


SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


TRANSFORMERS = {
    "vit": lambda: transformers.ViTConfig(**TOWER),
    "swin": lambda: transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=4
    ),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, image_size=32),
    "resnet": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic"
    ),
    "dinov2": lambda: transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    ),
    "siglip": lambda: transformers.SiglipConfig(vision_config=TOWER, text_config={**TEXT, **SPECIAL}),
    "clip": lambda: transformers.CLIPConfig(vision_config=TOWER, text_config={**TEXT, **SPECIAL}),
}


def saved(kind, folder, num_labels=2):
    config = TRANSFORMERS[kind]()
    config.num_labels = num_labels
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return f"hf:{folder}"
