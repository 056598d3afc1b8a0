"""Features as they come from a network, go into a table, and come back from it."""

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.features import extract_features, read_features
from lightning_noisy.inference import parts
from lightning_noisy.models.features import FeatureExtractor

from ..audit.small import digits, trainer

NAMES = ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 12), nn.ReLU(), nn.Linear(12, 10))


def test_the_table_holds_what_the_network_sees(network, tmp_path):
    data = digits()
    features = extract_features(network, data, tmp_path / "features", trainer=trainer())
    assert features.values.shape == (sum(map(len, data.splits.values())), 12)
    assert features.rows_of(pa.array(["nobody"])).tolist() == [-1]
    data.setup("fit")
    for images in data.splits.values():
        places = features.rows_of(images.ids)
        pixels = torch.stack([data.evaluation_transform(images.read(row)) for row in range(20)])
        torch.testing.assert_close(features.values[places[:20]].float(), network[:3](pixels), atol=2e-3, rtol=2e-3)
    stored = load_file(tmp_path / "features" / "features.safetensors")["features"]
    assert stored.dtype == torch.float16
    assert torch.equal(stored, features.values)
    assert not (tmp_path / "features" / parts.PARTS_FOLDER).exists()


def test_finished_features_are_read_and_those_of_others_are_refused(network, tmp_path, monkeypatch):
    data, folder = digits(), tmp_path / "features"
    first = extract_features(network, data, folder, trainer=trainer())
    monkeypatch.setattr("lightning_noisy.features.extract.predict", lambda *_: pytest.fail("it was looked at again"))
    assert torch.equal(
        extract_features(network, digits(noise="pair:0.2"), folder, trainer=trainer()).values, first.values
    )
    torch.manual_seed(1)
    other = nn.Sequential(nn.Flatten(), nn.Linear(768, 12), nn.ReLU(), nn.Linear(12, 10))
    with pytest.raises(ValueError, match="to be of this backbone, transform and these images, but they are of others"):
        extract_features(other, data, folder, trainer=trainer())
    with pytest.raises(ValueError, match="to be of this backbone"):
        extract_features(network, digits(image_size=20), folder, trainer=trainer())
    network[3].bias.data += 1  # the classification layer is no part of it
    extract_features(network, data, folder, trainer=trainer())


def test_a_pass_that_was_killed_goes_on(network, tmp_path, monkeypatch):
    data, folder = digits(), tmp_path / "features"
    monkeypatch.setattr(parts, "ROWS_IN_PART", 200)
    add, seen = parts.PartWriter.add, []

    def break_off(writer, columns):
        add(writer, columns)
        seen.extend(columns["position"].tolist())
        if len(seen) > 500:
            raise KeyboardInterrupt

    with monkeypatch.context() as breaking:
        breaking.setattr(parts.PartWriter, "add", break_off)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            extract_features(network, data, folder, trainer=trainer())
    total = sum(map(len, data.splits.values()))
    done = parts.positions_done(folder, total)
    assert 0 < done.sum() < total
    again = []
    monkeypatch.setattr(
        parts.PartWriter,
        "add",
        lambda writer, columns: (again.extend(columns["position"].tolist()), add(writer, columns)),
    )
    resumed = extract_features(network, data, folder, trainer=trainer())
    assert sorted(again) == np.flatnonzero(~done).tolist()
    whole = extract_features(network, data, tmp_path / "whole", trainer=trainer())
    torch.testing.assert_close(resumed.values, whole.values, atol=2e-3, rtol=2e-3)  # other batches round otherwise


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224"]
)
def test_features_of_timm_models_are_what_their_head_is_given(name):
    options = {"img_size": 64} if "patch16" in name else {}
    model = timm.create_model(name, pretrained=False, num_classes=5, **options).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        found = FeatureExtractor(model)(images)
    expected = expected[0] if isinstance(expected, tuple) else expected
    if "distilled" not in name:
        torch.testing.assert_close(found, expected)
    assert found.shape[1] == model.num_features or "mobilenet" in name


def test_features_of_a_transformers_model_are_what_its_classifier_is_given():
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    model = ViTForImageClassification(config).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.vit(images).last_hidden_state[:, 0]
        torch.testing.assert_close(FeatureExtractor(model)(images), expected)


def test_a_network_without_a_linear_layer_and_random_weights_are_told(tmp_path):
    with pytest.raises(ValueError, match="that ends in a linear layer, but Flatten has none"):
        extract_features(nn.Flatten(), digits(), tmp_path, trainer=trainer())
    data = NoisyImageDataModule("digits", image_size=32, num_workers=0, max_train_images=40)
    with pytest.warns(UserWarning, match="random weights .* mean little"):
        extract_features("timm:resnet10t", data, tmp_path, trainer=trainer(), pretrained=False)


def test_features_beyond_half_precision_are_told(network, tmp_path):
    large = nn.Sequential(*network)
    large[1].weight.data *= 1e6
    try:
        with pytest.raises(ValueError, match="within the range of half precision"):
            extract_features(large, digits(), tmp_path, trainer=trainer())
    finally:
        large[1].weight.data /= 1e6


@pytest.mark.parametrize("broken", ["features.json", "features.safetensors", "images.parquet"])
def test_a_table_that_is_not_whole_is_told(network, tmp_path, broken):
    folder = tmp_path / "features"
    extract_features(network, digits(), folder, trainer=trainer())
    if broken == "features.json":
        (folder / broken).unlink()
        with pytest.raises(ValueError, match=r"has no features\.json"):
            read_features(folder)
        return
    (folder / broken).write_bytes((folder / broken).read_bytes()[:50])
    with pytest.raises(ValueError, match="to hold features, but they can't be read"):
        read_features(folder)
