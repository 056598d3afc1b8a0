"""Models of every kind are audited: from memory, from transformers, without a noise layer."""

import numpy as np
import pyarrow.compute as pc
import pytest
import timm
import torch

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.judging.model import evidence, trained_model
from lightning_noisy.hf import NoisyForImageClassification
from lightning_noisy.noise.counting import counts_to_triples

from ...hf.small import tiny_vit
from ...training.small import OwnModule
from ..small import digits, trainer

NAMES = [str(label) for label in range(10)]


def network():
    return timm.create_model("test_vit", num_classes=10, img_size=16, patch_size=4)


def test_a_plain_model_has_no_noise_and_the_posterior_is_its_own_probability():
    data = digits(image_size=16, max_train_images=100)
    table = audit_labels(network(), data, trainer=trainer()).table
    table = table.filter(pc.invert(table["is_conflicting_duplicate"]))  # of whose labels each tells
    assert len(table) > 200
    np.testing.assert_allclose(table["p_given"].to_numpy(), table["clean_probability"].to_numpy(), rtol=1e-4)


def test_a_transformers_model_is_audited_and_its_noise_layer_is_used(tmp_path):
    data = digits(image_size=32, max_train_images=100)
    model = NoisyForImageClassification.from_backbone(tiny_vit(10), id2label=dict(enumerate(NAMES)))
    counts = torch.eye(10) * 8 + 1
    model.run_record.label_counts = counts_to_triples(counts)
    smoothed = (counts.double() + 0.1) / (counts.double() + 0.1).sum(dim=1, keepdim=True)
    torch.testing.assert_close(evidence(trained_model(model)), smoothed.log().float())
    in_memory = audit_labels(model, data, trainer=trainer())
    model.save_pretrained(tmp_path / "saved")
    assert audit_labels(tmp_path / "saved", data, trainer=trainer()).table["id"].equals(in_memory.table["id"])


def test_without_counts_it_is_what_the_layer_has_learned():
    model = NoisyImageClassifier(network(), 10, NAMES)
    expected = model.noise_layer.transition_matrix().log()
    torch.testing.assert_close(evidence(trained_model(model)), expected)


def test_a_module_without_a_classifier_that_can_be_found_is_told():
    with pytest.raises(ValueError, match="to hold one image classifier of timm or transformers, but got 0"):
        audit_labels(OwnModule(), digits(), trainer=trainer())
