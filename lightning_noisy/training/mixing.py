"""Mixup, CutMix and label smoothing, all on the side of the noisy labels."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_noisy.noise.counting import one_hot


class LabelMixing:
    """Mixes a batch of images and gives soft noisy labels where mixing or smoothing asks for them.

    Args:
        num_classes: Number of classes ``K``.
        mixup: ``α`` of mixup's Beta distribution, 0 for none. Source: Zhang et al. 2018, arXiv 1710.09412.
        cutmix: ``α`` of CutMix's, 0 for none; with both, each batch gets one of the two. Source: Yun et al. 2019,
            arXiv 1905.04899.
        label_smoothing: Share ``ε`` in ``[0, 1)`` of the label that is spread over all classes.
    """

    def __init__(self, num_classes: int, mixup: float, cutmix: float, label_smoothing: float) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        mixers: list[v2.Transform] = []
        if mixup > 0:
            mixers.append(v2.MixUp(alpha=mixup))
        if cutmix > 0:
            mixers.append(v2.CutMix(alpha=cutmix))
        self.mixer = v2.RandomChoice(mixers) if mixers else None

    def __call__(
        self,
        images: Tensor,
        noisy_labels: Tensor,
        weights: Tensor | None = None,
        soft_labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, the noisy labels, (B,) as they came or soft (B, K), and the soft labels that were given.

        A soft label sums up to the image's weight, by which the loss and every count take it. That of an image whose
        label is -1 is zero everywhere.

        Args:
            images: (B, C, H, W).
            noisy_labels: (B,) integers.
            weights: (B,).
            soft_labels: (B, K), mixed and smoothed as the noisy ones are.
        """
        if self.mixer is None and not self.label_smoothing and weights is None and soft_labels is None:
            return images, noisy_labels, None
        hard = one_hot(noisy_labels, self.num_classes).float()
        labels = hard if soft_labels is None else torch.cat([hard, soft_labels * hard.sum(dim=1, keepdim=True)], dim=1)
        if weights is not None:
            labels = labels * weights[:, None]
        if self.mixer is not None:
            images, labels = self.mixer(images, labels)
        if self.label_smoothing:
            even = labels[:, : self.num_classes].sum(dim=1, keepdim=True) / self.num_classes
            labels = labels * (1 - self.label_smoothing) + self.label_smoothing * even
        mixed, *others = labels.split(self.num_classes, dim=1)
        return images, mixed, others[0] if others else None
