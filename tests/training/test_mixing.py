import pytest
import torch

from lightning_noisy.training.mixing import LabelMixing

IMAGES = torch.rand(6, 3, 8, 8)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_without_options_a_batch_stays_as_it_is():
    images, labels, _ = LabelMixing(4, 0.0, 0.0, 0.0)(IMAGES, LABELS)
    assert images is IMAGES
    assert labels is LABELS


def test_label_smoothing_is_torchs_own_on_cross_entropy():
    logits = torch.randn(6, 4)
    _, soft, _ = LabelMixing(4, 0.0, 0.0, 0.2)(IMAGES, LABELS)
    expected = torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.2)
    assert torch.nn.functional.cross_entropy(logits, soft).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_labels_are_shares_and_images_change(mixup, cutmix):
    torch.manual_seed(0)
    images, soft, _ = LabelMixing(4, mixup, cutmix, 0.1)(IMAGES, LABELS)
    assert images.shape == IMAGES.shape
    assert not torch.equal(images, IMAGES)
    assert soft.shape == (6, 4)
    assert torch.allclose(soft.sum(1), torch.ones(6))
    assert soft.min() >= 0.1 / 4 - 1e-6


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.0, 0.0), (0.4, 0.0), (0.0, 1.0)])
def test_an_image_without_a_label_brings_none_into_the_batch(mixup, cutmix):
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, -1, -1, -1])
    _, soft, _ = LabelMixing(4, mixup, cutmix, 0.1)(IMAGES, labels)
    assert soft.sum().item() == pytest.approx(3.0)
    assert not soft[[4, 5]].any()
