"""What pretrained features tell of the labels of any data set."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import ViTConfig, ViTForImageClassification

from lightning_noisy import refine_labels
from lightning_noisy.audit.judging.by_features import judge_by_probe
from lightning_noisy.hf import NoisyForImageClassification

from ..hf.processes import torchrun

SIDE, CLASSES = 16, 3


class Tinted(Dataset):
    """Images whose channel tells the class; each fifth label is wrong."""

    def __init__(self, count=150, contrast=2.0, as_tuple=False):
        self.count, self.contrast, self.as_tuple = count, contrast, as_tuple

    def __len__(self):
        return self.count

    def label(self, index):
        return (index + (index % 5 == 0)) % CLASSES

    def __getitem__(self, index):
        pixels = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
        pixels[index % CLASSES] += self.contrast
        label = self.label(index)
        return (pixels, label) if self.as_tuple else {"pixel_values": pixels, "label": label}


def network(num_labels=CLASSES):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=SIDE, patch_size=8, num_labels=num_labels, **size))


@pytest.mark.parametrize("kind", ["noisy", "native", "tuples"])
def test_it_is_what_the_probe_says_of_what_the_last_layer_is_given(kind):
    native, dataset = network(), Tinted(as_tuple=kind == "tuples")
    native.train()
    native.vit.layernorm.eval()  # frozen
    modes = [module.training for module in native.modules()]
    native.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    seen = []
    before = copy.deepcopy(native.state_dict())
    model = NoisyForImageClassification.from_backbone(native) if kind == "noisy" else native
    refined = refine_labels(model, dataset, batch_size=64)
    assert [module.training for module in native.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in native.state_dict().items())
    features = torch.cat(seen).half()
    assert features.shape == (150, 16)
    labels = torch.tensor([dataset.label(index) for index in range(150)])
    expected = judge_by_probe(features, labels, CLASSES)
    torch.testing.assert_close(refined.soft_labels, expected.noise.posterior)
    assert refined.error_rate == expected.errors.value
    right = torch.arange(150) % CLASSES
    assert (refined.soft_labels.argmax(1) == right).float().mean() > 0.95 > (labels == right).float().mean()


def test_where_features_tell_nothing_the_given_labels_are_kept():
    with pytest.warns(UserWarning, match="Train on the given labels as they are: .* can't tell from"):
        refined = refine_labels(network(), Tinted(contrast=0.0))
    assert refined.soft_labels is None and "can't tell from" in refined.caution


def test_a_class_without_images_is_named():
    model = NoisyForImageClassification.from_backbone(network(), id2label=dict(enumerate(["ant", "bee", "cat"])))
    with pytest.warns(UserWarning, match="class 'cat' has 0 images, fewer than the 5 folds"):
        assert refine_labels(model, [row for row in map(Tinted().__getitem__, range(60)) if row["label"] < 2])


def test_what_a_data_set_must_give_is_told():
    with pytest.raises(ValueError, match=r"Expected a batch to be images .* but got a dict of 'pixel_values'"):
        refine_labels(network(), [{"pixel_values": torch.zeros(3, SIDE, SIDE)}] * 4)
    with pytest.raises(
        ValueError, match="Expected argument `backbone` to be an image classifier that ends in a linear"
    ):
        refine_labels(nn.Conv2d(3, 3, 1), Tinted())


SCRIPT = """
import sys
import torch
from accelerate import PartialState
from lightning_noisy import refine_labels
from tests.audit.test_refining import Tinted, network

state = PartialState(cpu=True)
found = refine_labels(network(), Tinted(count=151))
torch.save(found.soft_labels, f"{sys.argv[1]}/{state.process_index}.pt")
state.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_images_and_get_the_same(tmp_path):
    torchrun(SCRIPT, tmp_path, folder=tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(one, two)
    torch.testing.assert_close(one, refine_labels(network(), Tinted(count=151)).soft_labels, atol=1e-3, rtol=0)
