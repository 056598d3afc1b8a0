import copy
import json
import subprocess
import sys

import pytest
import timm
import torch
import transformers
from torch import nn
from transformers import AutoModelForImageClassification

from lightning_noisy import backbones

NAMES = ["ant", "bee", "cat"]
TIMM = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "mobilenetv2_035"]
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


def images_for(model, count=2):
    return torch.randn(count, *backbones.resolve_data_config(model)["input_size"])


def assert_same(first, second):
    images = images_for(first)
    first.eval()
    second.eval()
    with torch.no_grad():
        assert torch.equal(backbones.clean_logits(first, images), backbones.clean_logits(second, images))


@pytest.mark.parametrize("name", TIMM)
def test_timm_by_name_comes_back_from_its_spec_and_from_its_directory(name, tmp_path):
    model = backbones.build_backbone(f"timm:{name}", 3, pretrained=False)
    spec = backbones.backbone_spec(model)
    torch.save(spec, tmp_path / "spec.pt")
    rebuilt = backbones.build_backbone(torch.load(tmp_path / "spec.pt", weights_only=True), 3)
    rebuilt.load_state_dict(model.state_dict())
    assert_same(model, rebuilt)
    assert backbones.resolve_data_config(rebuilt) == backbones.resolve_data_config(model)
    backbones.save_backbone(model, tmp_path / "clean", NAMES)
    assert_same(model, timm.create_model(f"local-dir:{tmp_path / 'clean'}", pretrained=True))
    assert_same(model, backbones.build_backbone(f"timm:local-dir:{tmp_path / 'clean'}", 3))


@pytest.mark.parametrize("kind", list(TRANSFORMERS))
def test_transformers_from_a_directory_with_another_class_count(kind, tmp_path):
    model = backbones.build_backbone(saved(kind, tmp_path / "base"), 3, class_names=NAMES)
    assert backbones.clean_logits(model, images_for(model)).shape == (2, 3)
    assert model.config.id2label == dict(enumerate(NAMES))
    base = AutoModelForImageClassification.from_pretrained(tmp_path / "base").state_dict()
    kept = [name for name, value in model.state_dict().items() if torch.equal(value, base.get(name, torch.empty(0)))]
    assert len(kept) >= len(base) - 2, "all but the head is pretrained"

    spec = backbones.backbone_spec(model)
    assert str(tmp_path) not in json.dumps(spec)
    rebuilt = backbones.build_backbone(copy.deepcopy(spec), 3)
    rebuilt.load_state_dict(model.state_dict())
    assert_same(model, rebuilt)
    backbones.save_backbone(model, tmp_path / "clean", NAMES)
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "clean")
    assert again.config.label2id == {"ant": 0, "bee": 1, "cat": 2}
    assert_same(model, again)


@pytest.mark.parametrize("kind", ["vit", "siglip", "clip", "dinov2"])
def test_a_vision_transformer_takes_another_image_size(kind, tmp_path):
    model = backbones.build_backbone(saved(kind, tmp_path), 3, image_size=56)
    assert backbones.resolve_data_config(model)["input_size"] == (3, 56, 56)
    assert backbones.clean_logits(model, torch.randn(2, 3, 56, 56)).shape == (2, 3)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_timm_model_takes_another_image_size(name):
    model = backbones.build_backbone(f"timm:{name}", 3, pretrained=False, image_size=96)
    assert images_for(model).shape == (2, 3, 96, 96)
    assert backbones.clean_logits(model, images_for(model)).shape == (2, 3)
    rebuilt = backbones.build_backbone(backbones.backbone_spec(model), 3)
    assert images_for(rebuilt).shape == (2, 3, 96, 96)


def test_the_image_processor_of_a_model_sets_the_data_config_and_is_saved(tmp_path):
    source = saved("vit", tmp_path / "base")
    processor = transformers.ViTImageProcessor(
        size={"height": 48, "width": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=3
    )
    processor.save_pretrained(tmp_path / "base")
    model = backbones.build_backbone(source, 3)
    config = backbones.resolve_data_config(model)
    assert config["input_size"] == (3, 48, 48)
    assert config["mean"] == (0.1, 0.2, 0.3)
    assert config["std"] == (0.4, 0.5, 0.6)
    assert config["interpolation"] == "bicubic"
    backbones.save_backbone(model, tmp_path / "clean")
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path / "clean").image_mean == [0.1, 0.2, 0.3]


def test_a_clean_model_loads_where_this_package_does_not_exist(tmp_path):
    model = backbones.build_backbone(
        "timm:mobilenetv2_035", 3, pretrained=False, backbone_kwargs={"pad_type": "same", "bn_eps": 1e-3}
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    backbones.save_backbone(model, tmp_path / "clean", NAMES)
    torch.save({"images": images, "logits": model(images)}, tmp_path / "expected.pt")
    script = """
import sys
sys.modules["lightning_noisy"] = None  # importing it is now an error
import timm, torch
expected = torch.load("expected.pt", weights_only=True)
model = timm.create_model("local-dir:clean", pretrained=True).eval()
assert torch.equal(model(expected["images"]), expected["logits"])
assert model.pretrained_cfg["label_names"] == ["ant", "bee", "cat"]
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
    assert str(tmp_path) not in (tmp_path / "clean" / "config.json").read_text(encoding="utf-8")


def test_a_local_weights_file_without_a_head(shared_data):
    file = shared_data / "mobilenetv2_035.imagenet.features.safetensors"
    half = [0.5, 0.5, 0.5]
    options = {
        "pad_type": "same",
        "bn_eps": 1e-3,
        "pretrained_cfg_overlay": {"file": str(file), "mean": half, "std": half},
    }
    model = backbones.build_backbone("timm:mobilenetv2_035", 10, backbone_kwargs=options).eval()
    reference = timm.create_model("mobilenetv2_035", num_classes=0, pad_type="same", bn_eps=1e-3).eval()
    from safetensors.torch import load_file

    reference.load_state_dict(load_file(file))
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model.forward_head(model.forward_features(images), pre_logits=True), reference(images))
    assert list(backbones.resolve_data_config(model)["mean"]) == half
    assert str(file) not in json.dumps(backbones.backbone_spec(model))


def test_a_module_of_ones_own_stays_as_it_is_and_tells_its_data_config():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    module.data_config = {"input_size": (3, 2, 2), "mean": (0, 0, 0), "std": (1, 1, 1)}
    assert backbones.build_backbone(module, 3) is module
    assert backbones.backbone_spec(module) is None
    assert backbones.resolve_data_config(module)["input_size"] == (3, 2, 2)


def test_the_head_of_a_library_model_that_was_handed_over_is_adapted(tmp_path):
    timm_model = timm.create_model("test_resnet", num_classes=7)
    assert backbones.build_backbone(timm_model, 3).num_classes == 3
    assert backbones.backbone_spec(timm_model)["architecture"] == "test_resnet"
    saved("resnet", tmp_path, num_labels=5)
    model = backbones.build_backbone(AutoModelForImageClassification.from_pretrained(tmp_path), 3, class_names=NAMES)
    assert backbones.clean_logits(model, torch.randn(2, 3, 64, 64)).shape == (2, 3)
    assert model.config.num_labels == 3


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet50", "Did you mean 'timm:resnet50'"),
        ("timm:resnet5O", "'timm:resnet5O'.*Did you mean 'timm:resnet50'"),
        ("timm:resnet50.a1_in2k", "Did you mean 'timm:resnet50.a1_in1k'"),
        ("timm:local-dir:nowhere", "folder with a config.json, but 'nowhere'"),
        ("hf:./nowhere", r"the folder '\./nowhere' does not exist"),
        ("google/vit-base-patch16-224", "Did you mean 'hf:google/vit-base-patch16-224'"),
        ("keras:resnet50", "'timm:NAME'"),
        ("hf:nobody/nothing", "'hf:nobody/nothing' can't be loaded.*`pretrained` to false"),
        ({"library": "keras"}, "`library` is 'timm' or 'transformers'"),
    ],
)
def test_an_unknown_backbone_is_named_with_near_ones(backbone, message):
    with pytest.raises(ValueError, match=message) as caught:
        backbones.build_backbone(backbone, 3)
    assert "\n" not in str(caught.value)


def test_wrong_options_of_the_backbone_are_named():
    with pytest.raises(ValueError, match="`backbone_kwargs` does not fit 'timm:test_resnet'"):
        backbones.build_backbone("timm:test_resnet", 3, pretrained=False, backbone_kwargs={"wings": 2})
