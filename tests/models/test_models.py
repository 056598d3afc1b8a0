import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageClassification

from lightning_noisy import models
from lightning_noisy.models.timm_models import hub_name

from .small import TRANSFORMERS, saved

NAMES = ["ant", "bee", "cat"]
TIMM = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "mobilenetv2_035"]


def images_for(model, count=2):
    return torch.randn(count, *models.resolve_data_config(model)["input_size"])


def assert_same(first, second):
    images = images_for(first)
    first.eval()
    second.eval()
    with torch.no_grad():
        assert torch.equal(models.clean_logits(first, images), models.clean_logits(second, images))


@pytest.mark.parametrize("name", TIMM)
def test_timm_by_name_comes_back_from_its_spec_and_from_its_directory(name, tmp_path):
    model = models.build_backbone(f"timm:{name}", 3, pretrained=False)
    spec = models.backbone_spec(model)
    torch.save(spec, tmp_path / "spec.pt")
    rebuilt = models.build_backbone(torch.load(tmp_path / "spec.pt", weights_only=True), 3)
    rebuilt.load_state_dict(model.state_dict())
    assert_same(model, rebuilt)
    assert models.resolve_data_config(rebuilt) == models.resolve_data_config(model)
    models.save_backbone(model, tmp_path / "clean", NAMES)
    assert_same(model, timm.create_model(f"local-dir:{tmp_path / 'clean'}", pretrained=True))
    assert_same(model, models.build_backbone(f"timm:local-dir:{tmp_path / 'clean'}", 3))


@pytest.mark.parametrize("kind", list(TRANSFORMERS))
def test_transformers_from_a_directory_with_another_class_count(kind, tmp_path):
    model = models.build_backbone(saved(kind, tmp_path / "base"), 3, class_names=NAMES)
    assert models.clean_logits(model, images_for(model)).shape == (2, 3)
    assert model.config.id2label == dict(enumerate(NAMES))
    base = AutoModelForImageClassification.from_pretrained(tmp_path / "base").state_dict()
    kept = [name for name, value in model.state_dict().items() if torch.equal(value, base.get(name, torch.empty(0)))]
    assert len(kept) >= len(base) - 2, "all but the head is pretrained"

    spec = models.backbone_spec(model)
    assert str(tmp_path) not in json.dumps(spec)
    rebuilt = models.build_backbone(copy.deepcopy(spec), 3)
    rebuilt.load_state_dict(model.state_dict())
    assert_same(model, rebuilt)
    models.save_backbone(model, tmp_path / "clean", NAMES)
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "clean")
    assert again.config.label2id == {"ant": 0, "bee": 1, "cat": 2}
    assert_same(model, again)


@pytest.mark.parametrize("kind", ["vit", "siglip", "clip", "dinov2"])
def test_a_vision_transformer_takes_another_image_size(kind, tmp_path):
    model = models.build_backbone(saved(kind, tmp_path), 3, image_size=56)
    assert models.resolve_data_config(model)["input_size"] == (3, 56, 56)
    assert models.clean_logits(model, torch.randn(2, 3, 56, 56)).shape == (2, 3)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_timm_model_takes_another_image_size(name):
    model = models.build_backbone(f"timm:{name}", 3, pretrained=False, image_size=96)
    assert images_for(model).shape == (2, 3, 96, 96)
    assert models.clean_logits(model, images_for(model)).shape == (2, 3)
    rebuilt = models.build_backbone(models.backbone_spec(model), 3)
    assert images_for(rebuilt).shape == (2, 3, 96, 96)


def test_the_image_processor_of_a_model_sets_the_data_config_and_is_saved(tmp_path):
    source = saved("vit", tmp_path / "base")
    processor = transformers.ViTImageProcessor(
        size={"height": 48, "width": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=3
    )
    processor.save_pretrained(tmp_path / "base")
    model = models.build_backbone(source, 3)
    config = models.resolve_data_config(model)
    assert config["input_size"] == (3, 48, 48)
    assert config["mean"] == (0.1, 0.2, 0.3)
    assert config["std"] == (0.4, 0.5, 0.6)
    assert config["interpolation"] == "bicubic"
    models.save_backbone(model, tmp_path / "clean")
    assert list(transformers.AutoImageProcessor.from_pretrained(tmp_path / "clean").image_mean) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"height": 48, "width": 48}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"size": {"shortest_edge": 60}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}},
        {"size": {"height": 48, "width": 48}, "do_normalize": False},
    ],
    ids=["squashed", "cropped", "unnormalised"],
)
def test_timms_transform_prepares_an_image_as_the_processor_does(options, tmp_path):
    source = saved("resnet", tmp_path)
    processor_class = transformers.CLIPImageProcessor if "crop_size" in options else transformers.ViTImageProcessor
    processor = processor_class(**options)
    processor.save_pretrained(tmp_path)
    model = models.build_backbone(source, 3)
    ramp = np.tile(np.linspace(0, 255, 90)[:, None], (70, 1, 3)).astype(np.uint8)  # left to right, (70, 90, 3)
    expected = processor(Image.fromarray(ramp), return_tensors="pt")["pixel_values"][0]
    config = models.resolve_data_config(model)
    found = timm.data.create_transform(**config, is_training=False)(Image.fromarray(ramp))
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.03


def test_a_clean_model_loads_where_this_package_does_not_exist(tmp_path):
    model = models.build_backbone(
        "timm:mobilenetv2_035", 3, pretrained=False, backbone_kwargs={"pad_type": "same", "bn_eps": 1e-3}
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    models.save_backbone(model, tmp_path / "clean", NAMES)
    torch.save({"images": images, "logits": model(images)}, tmp_path / "expected.pt")
    script = """
import sys
sys.modules["lightning_noisy"] = None  # importing it is now an error
import timm, torch
torch.set_num_threads(1)  # as in the test: another number adds in another order
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
    model = models.build_backbone("timm:mobilenetv2_035", 10, backbone_kwargs=options).eval()
    reference = timm.create_model("mobilenetv2_035", num_classes=0, pad_type="same", bn_eps=1e-3).eval()
    reference.load_state_dict(load_file(file))
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model.forward_head(model.forward_features(images), pre_logits=True), reference(images))
    assert list(models.resolve_data_config(model)["mean"]) == half
    assert str(file) not in json.dumps(models.backbone_spec(model))


def test_a_module_of_ones_own_stays_as_it_is_and_tells_its_data_config():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    module.data_config = {"input_size": (3, 2, 2), "mean": (0, 0, 0), "std": (1, 1, 1)}
    assert models.build_backbone(module, 3) is module
    assert models.backbone_spec(module) is None
    assert models.resolve_data_config(module)["input_size"] == (3, 2, 2)


def test_the_head_of_a_library_model_that_was_handed_over_is_adapted(tmp_path):
    timm_model = timm.create_model("test_resnet", num_classes=7)
    assert models.build_backbone(timm_model, 3).num_classes == 3
    assert models.backbone_spec(timm_model)["architecture"] == "test_resnet"
    saved("resnet", tmp_path, num_labels=5)
    model = models.build_backbone(AutoModelForImageClassification.from_pretrained(tmp_path), 3, class_names=NAMES)
    assert models.clean_logits(model, torch.randn(2, 3, 64, 64)).shape == (2, 3)
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
        models.build_backbone(backbone, 3)
    assert "\n" not in str(caught.value)


def test_a_missing_download_tells_what_and_the_remedy_and_its_cause():
    for backbone in ("timm:resnet18.a1_in1k", "timm:hf-hub:nobody/nothing"):
        with pytest.raises(ValueError, match=f"'{backbone}' can't be loaded.*connection.*local folder") as caught:
            models.build_backbone(backbone, 3)
        assert caught.value.__cause__ is not None


def test_wrong_options_of_the_backbone_are_named(tmp_path):
    with pytest.raises(ValueError, match="`backbone_kwargs` does not fit 'timm:test_resnet'"):
        models.build_backbone("timm:test_resnet", 3, pretrained=False, backbone_kwargs={"wings": 2})
    with pytest.raises(ValueError, match=r"`backbone_kwargs` does not fit 'hf:.*has no .*'wings'"):
        models.build_backbone(saved("vit", tmp_path), 3, backbone_kwargs={"wings": 2})


def test_a_model_without_a_classification_head_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'timm:test_resnet' has no head"):
        models.build_backbone("timm:test_resnet", 3, pretrained=False, backbone_kwargs={"features_only": True})
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bert' model, for which transformers has no image classification head"):
        models.build_backbone(f"hf:{tmp_path}", 3)


def test_a_head_of_several_layers_is_a_head():
    model = models.build_backbone("timm:levit_128s", 3, pretrained=False)
    assert isinstance(model.get_classifier(), tuple)


def test_the_number_of_class_names_must_fit():
    with pytest.raises(ValueError, match="`class_names` to have 4 names, one a class, but got 3"):
        models.build_backbone("timm:test_resnet", 4, class_names=NAMES, pretrained=False)


def test_a_foreign_head_that_cant_be_replaced_is_named():
    model = AutoModelForImageClassification.from_config(TRANSFORMERS["vit"]())
    model.classifier = nn.Conv1d(16, 2, 1)
    with pytest.raises(ValueError, match="3 classes, but it has 2 and no linear `classifier`"):
        models.build_backbone(model, 3)


def test_a_handed_over_model_keeps_its_class_names():
    config = TRANSFORMERS["vit"]()
    config.id2label = dict(enumerate(NAMES))
    model = models.build_backbone(AutoModelForImageClassification.from_config(config), 3)
    assert model.config.id2label == dict(enumerate(NAMES))


def test_dropout_of_a_loaded_transformers_model_fires_in_train_mode_only(tmp_path):
    model = models.build_backbone(saved("vit", tmp_path), 3, backbone_kwargs={"hidden_dropout_prob": 0.5})
    assert not model.training
    images = images_for(model)
    assert torch.equal(models.clean_logits(model, images), models.clean_logits(model, images))
    model.train()
    assert not torch.equal(models.clean_logits(model, images), models.clean_logits(model, images))


def test_dropout_and_other_options_of_a_timm_model_are_in_its_spec():
    options = {"drop_rate": 0.3, "drop_path_rate": 0.2, "bn_eps": 0.5}
    model = models.build_backbone("timm:test_efficientnet", 3, pretrained=False, backbone_kwargs=options)
    rebuilt = models.build_backbone(models.backbone_spec(copy.deepcopy(model)), 3)
    assert rebuilt.drop_rate == 0.3
    assert rebuilt.bn1.eps == 0.5
    assert repr(rebuilt) == repr(model), "drop path included"


def test_a_spec_is_json_and_takes_another_class_count():
    model = models.build_backbone("timm:test_vit", 3, pretrained=False, image_size=96)
    spec = json.loads(json.dumps(models.backbone_spec(model)))
    rebuilt = models.build_backbone(spec, 5)
    assert models.clean_logits(rebuilt, images_for(rebuilt)).shape == (2, 5)
    assert models.resolve_data_config(rebuilt) == models.resolve_data_config(model)


def test_a_model_with_arguments_that_are_no_primitives_has_no_spec():
    model = timm.create_model("test_vit", num_classes=3, norm_layer=nn.LayerNorm)
    assert models.backbone_spec(model) is None


def test_a_fixed_size_timm_model_takes_another_image_size(tmp_path):
    model = models.build_backbone("timm:vit_tiny_patch16_224", 3, pretrained=False, image_size=32)
    assert model.pos_embed.shape[1] == 2 * 2 + 1
    models.save_backbone(model, tmp_path, NAMES)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert_same(model, again)
    assert models.resolve_data_config(again) == models.resolve_data_config(model)
    assert timm.data.resolve_model_data_config(again)["input_size"] == (3, 32, 32)


def test_a_saved_timm_model_loads_in_transformers_and_comes_from_there(tmp_path):
    model = models.build_backbone("timm:test_resnet", 3, pretrained=False)
    models.save_backbone(model, tmp_path / "timm", NAMES)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "timm")
    assert loaded.config.id2label == dict(enumerate(NAMES))
    assert_same(model, loaded)
    wrapped = models.build_backbone(f"hf:{tmp_path / 'timm'}", 5)
    assert models.resolve_data_config(wrapped) == models.resolve_data_config(model)
    rebuilt = models.build_backbone(models.backbone_spec(wrapped), 5)
    rebuilt.load_state_dict(wrapped.state_dict())
    assert_same(wrapped, rebuilt)
    models.save_backbone(wrapped, tmp_path / "again")
    assert_same(wrapped, AutoModelForImageClassification.from_pretrained(tmp_path / "again"))
    assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path / "again")).__name__.startswith("TimmWrapper")


def test_an_own_module_is_saved_as_safetensors_alone(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    models.save_backbone(module, tmp_path, NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class_names.json", "model.safetensors"]
    assert json.loads((tmp_path / "class_names.json").read_text(encoding="utf-8")) == NAMES
    assert torch.equal(load_file(tmp_path / "model.safetensors")["1.weight"], module[1].weight)


def test_the_attributes_a_model_carries_survive_a_copy_and_are_not_in_its_state(tmp_path):
    model = models.build_backbone(saved("resnet", tmp_path), 3, image_size=64)
    copied = copy.deepcopy(model)
    assert models.resolve_data_config(copied)["input_size"] == (3, 64, 64)
    assert models.backbone_spec(copied) == models.backbone_spec(model)
    assert not any("noisy" in name for name in model.state_dict())


def test_importing_backbones_does_not_import_transformers():
    script = "import sys, lightning_noisy.models; assert 'transformers' not in sys.modules"
    root = Path(models.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        (
            "resnet50",
            f"timm/{timm.get_pretrained_cfg('resnet50').architecture}.{timm.get_pretrained_cfg('resnet50').tag}",
        ),
        ("hf-hub:me/birds", "me/birds"),
        ("local-dir:birds", None),
    ],
)
def test_the_repository_of_pretrained_weights(name, repository):
    config = {} if ":" in name else timm.get_pretrained_cfg(name).to_dict()
    assert hub_name(name, config) == repository


def test_a_spec_remembers_the_repository_and_no_local_path(tmp_path):
    model = models.build_backbone("timm:test_resnet", 3, pretrained=False)
    assert models.base_model_of(model) is None
    model._noisy_base_model = "me/birds"
    rebuilt = models.build_backbone(models.backbone_spec(model), 3)
    assert models.base_model_of(rebuilt) == "me/birds"
    assert models.base_model_of(models.build_backbone(saved("vit", tmp_path), 3)) is None


def test_a_wrapped_timm_model_gets_another_head_and_is_saved_as_timm_does(tmp_path):
    models.save_backbone(models.build_backbone("timm:test_vit", 2, pretrained=False), tmp_path / "base")
    model = models.build_backbone(f"hf:{tmp_path / 'base'}", 2, class_names=NAMES[:2])
    model.config.pretrained_cfg["mean"] = [0.1, 0.2, 0.3]
    model = models.build_backbone(model, 3, class_names=NAMES)
    models.save_backbone(model, tmp_path / "clean", NAMES)
    plain = timm.create_model(f"local-dir:{tmp_path / 'clean'}", pretrained=True)
    assert plain.pretrained_cfg["mean"] == (0.1, 0.2, 0.3) or list(plain.pretrained_cfg["mean"]) == [0.1, 0.2, 0.3]
    assert plain.pretrained_cfg["label_names"] == NAMES
    assert_same(model, plain)


@pytest.mark.parametrize("crop_mode", ["squash", "center"])
def test_a_model_without_a_processor_is_saved_with_one_that_does_what_the_training_did(crop_mode, tmp_path):
    model = models.build_backbone(saved("resnet", tmp_path / "base"), 3)
    config = {**models.DEFAULT_DATA_CONFIG, "input_size": (3, 48, 48), "crop_mode": crop_mode, "crop_pct": 0.8}
    model._noisy_data_config = config
    models.save_backbone(model, tmp_path / "clean")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "clean")
    ramp = np.tile(np.linspace(0, 255, 90)[:, None], (70, 1, 3)).astype(np.uint8)
    found = processor(Image.fromarray(ramp), return_tensors="pt")["pixel_values"][0]
    expected = timm.data.create_transform(**config, is_training=False)(Image.fromarray(ramp))
    assert found.shape == expected.shape == (3, 48, 48)
    if crop_mode == "center":
        assert (found - expected).abs().mean() < 0.05
