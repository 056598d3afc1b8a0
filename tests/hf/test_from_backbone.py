import pytest
import timm
import torch
import transformers
from transformers import (
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTModel,
)

from lightning_noisy import NoiseConfig
from lightning_noisy.hf import NoisyForImageClassification
from lightning_noisy.noise.files import save_noise_layer

from .small import NAMES, SIDE, batch, noisy_vit, saved_timm, tiny_vit


def test_a_folder_of_transformers_keeps_its_weights_and_gets_a_new_head(tmp_path):
    base = tiny_vit(num_labels=5)
    base.save_pretrained(tmp_path)
    model = NoisyForImageClassification.from_backbone(str(tmp_path), id2label=NAMES)
    assert model.config.id2label == model.backbone.config.id2label == NAMES
    assert model.config.num_labels == model.noise_layer.num_classes == 3
    kept = base.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert name.startswith("classifier") or torch.equal(value, kept[name]), name
    assert torch.equal(model.noise_layer.weight, torch.eye(3))


def test_a_folder_of_timm(tmp_path):
    base = timm.create_model(f"local-dir:{saved_timm(tmp_path)}", pretrained=True).eval()
    model = NoisyForImageClassification.from_backbone(str(tmp_path), label2id={"ant": 0, "bee": 1, "cat": 2})
    images, _ = batch()
    expected, found = (part.forward_features(images) for part in (base, model.eval().backbone.timm_model))
    torch.testing.assert_close(found, expected)
    assert model.config.id2label == NAMES
    assert model(images).logits.shape == (4, 3)


def test_the_backbone_s_own_classes_by_default(tmp_path):
    model = NoisyForImageClassification.from_backbone(saved_timm(tmp_path))
    assert model.config.id2label[4] == "old 4"
    assert model.noise_layer.num_classes == 5


def test_a_model_that_is_there_already_keeps_its_weights():
    vit = tiny_vit()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    model = NoisyForImageClassification.from_backbone(vit, noise={"warmup_epochs": 0})
    assert model.backbone is vit
    assert all(torch.equal(vit.state_dict()[name], value) for name, value in before.items())
    assert vit.config._attn_implementation == model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_a_model_that_is_there_already_gets_a_head_for_other_classes(kind, tmp_path):
    native = tiny_vit(5) if kind == "vit" else AutoModelForImageClassification.from_pretrained(saved_timm(tmp_path))
    model = NoisyForImageClassification.from_backbone(native, id2label=NAMES)
    assert model(batch()[0]).logits.shape == (4, 3)
    model.save_pretrained(tmp_path / "saved")
    loaded = NoisyForImageClassification.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(loaded(batch()[0]).logits, model.eval()(batch()[0]).logits)


@pytest.mark.parametrize("name", ["swin", "convnext", "dinov2", "siglip"])
def test_other_architectures_of_transformers(name):
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
    tower = {**size, "intermediate_size": 16, "patch_size": 14}
    configs = {
        "swin": lambda: transformers.SwinConfig(
            image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=4
        ),
        "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2),
        "dinov2": lambda: transformers.Dinov2Config(**size, patch_size=14),
        "siglip": lambda: transformers.SiglipConfig(vision_config=tower),
    }
    config = configs[name]()
    config.num_labels = 3
    native = AutoModelForImageClassification.from_config(config)
    model = NoisyForImageClassification.from_backbone(native, noise=NoiseConfig(warmup_epochs=0)).train()
    side = 28 if name in ("dinov2", "siglip") else SIDE
    out = model(torch.randn(2, 3, side, side), labels=torch.tensor([0, 1]))
    out.loss.backward()
    assert out.loss.isfinite() and any(parameter.grad is not None for parameter in native.parameters())
    assert out.logits.shape == (2, 3)


def test_training_goes_on_from_an_exported_noise_layer(tmp_path):
    model = noisy_vit(NoiseConfig(warmup_epochs=1, lr_scale=0.25))
    with torch.no_grad():
        model.noise_layer.weight += torch.randn(3, 3)
    model.strip().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"noise_config.json.*does not hold both"):
        NoisyForImageClassification.from_backbone(tmp_path, noise="export")
    save_noise_layer(model.noise_layer, tmp_path)
    again = NoisyForImageClassification.from_backbone(tmp_path, noise="export")
    assert torch.equal(again.noise_layer.weight, model.noise_layer.weight)
    assert again.noise_layer.config == model.noise_layer.config
    (tmp_path / "noise_layer.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="hold no noise layer"):
        NoisyForImageClassification.from_backbone(tmp_path, noise="export")


def test_a_type_with_several_classifiers_is_saved_as_the_one_it_is(tmp_path):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    native = transformers.DeiTForImageClassification(
        transformers.DeiTConfig(image_size=SIDE, patch_size=8, num_labels=3, **size)
    )
    model = NoisyForImageClassification.from_backbone(native).eval()
    model.save_pretrained(tmp_path)
    loaded = NoisyForImageClassification.from_pretrained(tmp_path)
    assert type(loaded.backbone) is transformers.DeiTForImageClassification
    assert torch.equal(loaded(batch()[0]).logits, model(batch()[0]).logits)


def test_images_that_are_not_square(tmp_path):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=(32, 64), patch_size=8, num_labels=3, **size)
    native = transformers.ViTForImageClassification(config).eval()
    pixels = torch.randn(2, 3, 32, 64)
    expected = native(pixels).logits
    assert torch.equal(NoisyForImageClassification.from_backbone(native).eval()(pixels).logits, expected)


def test_class_names_in_order():
    assert (
        NoisyForImageClassification.from_backbone(tiny_vit(), id2label=["ant", "bee", "cat"]).config.id2label == NAMES
    )


MISTAKES = {
    "a repository that does not exist": (
        lambda folder: {"backbone": "nobody/no-such-model"},
        "'hf:nobody/no-such-model' can't be loaded.*Check the name",
    ),
    "a folder that does not exist": (lambda folder: {"backbone": "./nowhere"}, "'./nowhere' does not exist"),
    "a folder without a config": (lambda folder: {"backbone": str(folder)}, "config.json.*has none"),
    "no classifier": (lambda folder: {"backbone": ViTModel(tiny_vit().config)}, "ViTModel.*ViTForImageClassification"),
    "a timm model": (
        lambda folder: {"backbone": timm.create_model("test_resnet")},
        "A timm model is given by its name",
    ),
    "a noise layer already": (lambda folder: {"backbone": noisy_vit()}, "has a noise layer already.*from_pretrained"),
    "a saved noise layer already": (
        lambda folder: {"backbone": noisy_vit().save_pretrained(folder) or folder},
        "has a noise layer already.*from_pretrained",
    ),
    "a gap": (lambda folder: {"id2label": {0: "a", 2: "b"}}, r"`id2label`.*\[0, 2\]"),
    "names as numbers": (lambda folder: {"id2label": {"ant": 0}}, "by number.*'ant'"),
    "a name twice": (lambda folder: {"id2label": {0: "a", 1: "a"}}, "'a' twice"),
    "maps that differ": (
        lambda folder: {"id2label": NAMES, "label2id": {"ant": 1, "bee": 0, "cat": 2}},
        "`id2label` and `label2id` to say the same",
    ),
    "another number of classes": (lambda folder: {"noise": NoiseConfig(num_classes=4)}, "`num_classes`.*3.*got 4"),
    "an unknown word": (lambda folder: {"noise": "exprot"}, "`noise`.*'exprot'"),
    "no export": (lambda folder: {"noise": "export"}, "`noise`.*'export'"),
    "options without a name": (lambda folder: {"revision": "main"}, "'revision'.*is a model already"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_one_sentence_that_names_it(mistake, tmp_path):
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as raised:
        NoisyForImageClassification.from_backbone(**{"backbone": tiny_vit(), **make(tmp_path)})
    assert "\n" not in str(raised.value)


def test_a_config_that_knows_its_classes_in_one_direction_alone():
    config = TimmWrapperConfig(architecture="test_resnet", id2label={0: "ant", 1: "bee", 2: "cat"}, num_labels=3)
    assert config.label2id is None
    model = NoisyForImageClassification.from_backbone(TimmWrapperForImageClassification(config))
    assert model.config.label2id == {"ant": 0, "bee": 1, "cat": 2}
