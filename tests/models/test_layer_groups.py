import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from lightning_noisy import models
from lightning_noisy.models.layer_groups import (
    block_classes,
    frozen_modules,
    layer_depths,
    parameter_groups,
    set_trainable_blocks,
)

from .small import TRANSFORMERS, saved


def own_module():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_layer_decay_is_timms_own_multiplied_into_the_learning_rate(name):
    model = timm.create_model(name, num_classes=3)
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    expected = {}
    for group in param_groups_layer_decay(model, weight_decay=0.2, no_weight_decay_list=exempt, layer_decay=0.5):
        for parameter in group["params"]:
            expected[parameter] = (0.1 * group["lr_scale"], group["weight_decay"])
    groups = parameter_groups(model, lr=0.1, weight_decay=0.2, layer_decay=0.5)
    found = {parameter: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert found.keys() == expected.keys()
    assert all(found[parameter] == pytest.approx(expected[parameter]) for parameter in expected)
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize("kind", list(TRANSFORMERS))
def test_the_layers_of_a_transformers_model_are_in_order(kind, tmp_path):
    model = models.build_backbone(saved(kind, tmp_path), 3)
    depths = layer_depths(model)
    top = max(depths.values())
    assert set(depths) == {name for name, _ in model.named_parameters()}
    assert sorted(set(depths.values())) == list(range(top + 1))
    assert {name for name, depth in depths.items() if depth == top} == {n for n in depths if n.startswith("classifier")}
    assert all("embed" in name for name, depth in depths.items() if depth == 0 and "rnorm" not in name)
    assert top >= 3


def test_a_linear_probe_trains_the_head_alone():
    for model, head in (
        (timm.create_model("test_convnext", num_classes=3), {"head.fc.weight", "head.fc.bias"}),  # not its norm
        (timm.create_model("test_vit", num_classes=3), {"head.weight", "head.bias"}),
        (timm.create_model("test_resnet", num_classes=3), {"fc.weight", "fc.bias"}),
        (own_module(), {"4.weight", "4.bias"}),
    ):
        set_trainable_blocks(model, 0)
        assert trained(model) == head


def test_the_last_blocks_train_with_what_lies_above_them():
    model = timm.create_model("test_vit", num_classes=3)
    set_trainable_blocks(model, 2)
    parts = {name.split(".")[1] if name.startswith("blocks") else name.split(".")[0] for name in trained(model)}
    assert parts == {"4", "5", "norm", "fc_norm", "head"} & parts | {"4", "5", "head"}
    assert not any(name.startswith(("blocks.3", "patch_embed", "pos_embed")) for name in trained(model))
    everything = timm.create_model("test_vit", num_classes=3)
    set_trainable_blocks(everything, None)
    assert trained(everything) == {name for name, _ in everything.named_parameters()}


@pytest.mark.parametrize("blocks", [-1, 7])
def test_more_blocks_than_there_are_is_a_mistake(blocks):
    with pytest.raises(ValueError, match=rf"`trainable_blocks`.*0\.\.6.*got {blocks}"):
        set_trainable_blocks(timm.create_model("test_vit"), blocks)


def test_frozen_modules_own_no_trained_parameter():
    model = own_module()
    set_trainable_blocks(model, 0)
    assert frozen_modules(model) == [model[0], model[1], model[2]]
    set_trainable_blocks(model, None)
    for parameter in model.parameters():
        parameter.requires_grad = True
    assert frozen_modules(model) == []


def test_without_layer_decay_there_are_two_groups():
    groups = parameter_groups(own_module(), lr=0.1, weight_decay=0.2)
    assert {group["name"]: group["weight_decay"] for group in groups} == {"backbone": 0.2, "backbone/no_decay": 0.0}
    sizes = {group["name"]: len(group["params"]) for group in groups}
    assert sizes == {"backbone": 3, "backbone/no_decay": 5}
    torch.optim.AdamW(groups)


def test_frozen_parameters_are_in_no_group():
    model = own_module()
    set_trainable_blocks(model, 0)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1, 0.2, layer_decay=0.5)) == 2


def test_a_linear_probe_of_a_head_of_several_layers_trains_them_all():
    model = timm.create_model("levit_128s", num_classes=3)
    set_trainable_blocks(model, 0)
    assert {name.partition(".")[0] for name in trained(model)} == {"head", "head_dist"}


@pytest.mark.parametrize(("kind", "blocks"), [("vit", 2), ("swin", 3), ("convnext", 3), ("resnet", 2), ("dinov2", 2)])
def test_the_number_of_blocks_of_a_transformers_model(kind, blocks, tmp_path):
    model = models.build_backbone(saved(kind, tmp_path), 3)
    set_trainable_blocks(model, blocks)
    assert not all(parameter.requires_grad for parameter in model.parameters()), "the embeddings stay frozen"
    with pytest.raises(ValueError, match=rf"0\.\.{blocks}"):
        set_trainable_blocks(model, blocks + 1)


def test_a_timm_model_in_transformers_clothes_has_timms_layers(tmp_path):
    model = timm.create_model("test_vit", num_classes=3)
    models.save_backbone(model, tmp_path, ["ant", "bee", "cat"])
    wrapped = models.build_backbone(f"hf:{tmp_path}", 3)
    assert layer_depths(wrapped) == {f"timm_model.{name}": depth for name, depth in layer_depths(model).items()}
    decayed = next(group for group in parameter_groups(wrapped, 0.1, 0.2) if group["weight_decay"])["params"]
    assert not any(parameter is wrapped.timm_model.pos_embed for parameter in decayed)
    set_trainable_blocks(wrapped, 0)
    assert trained(wrapped) == {"timm_model.head.weight", "timm_model.head.bias"}


def test_a_frozen_batch_norm_in_eval_mode_keeps_its_statistics():
    model = timm.create_model("test_resnet", num_classes=3)
    set_trainable_blocks(model, 1)
    model.train()
    for module in frozen_modules(model):
        module.eval()
    before = {name: value.clone() for name, value in model.state_dict().items() if "running_mean" in name}
    model(torch.randn(4, 3, 64, 64))
    changed = {name for name, value in before.items() if not torch.equal(value, model.state_dict()[name])}
    assert changed
    assert all(name.startswith("layer4") for name in changed)


def test_each_trained_parameter_is_in_one_group():
    model = own_module()
    groups = parameter_groups(model, lr=0.1, weight_decay=0.2, layer_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    rates = {group["name"]: group["lr"] for group in groups if group["weight_decay"]}
    assert rates == {"layer_0": pytest.approx(0.0125), "layer_2": pytest.approx(0.05), "head": 0.1}


def test_unlike_layers_between_two_stages_are_part_of_the_next_block(tmp_path):
    depths = layer_depths(models.build_backbone(saved("convnext", tmp_path), 3))
    downsampling = {depth for name, depth in depths.items() if "stages.1.downsampling_layer" in name}
    first_block = {depth for name, depth in depths.items() if "stages.1.layers.0" in name}
    assert downsampling == first_block


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", ["Bottleneck"]),
        ("vit_base_patch16_224", ["Block"]),
        ("convnext_tiny", ["ConvNeXtStage"]),
        ("efficientnet_b0", ["DepthwiseSeparableConv", "InvertedResidual"]),
    ],
)
def test_the_classes_of_the_blocks(name, expected):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert block_classes(model) == expected
    held = [module for module in model.modules() if type(module).__name__ in expected]
    inside = {id(parameter) for module in held for parameter in module.parameters()}
    assert len(inside) > 0.8 * len(list(model.parameters())), "nearly all of the model lies in blocks"
