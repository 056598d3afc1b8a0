"""A metric that never waits for the accelerator while it is fed."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_noisy.noise.functional import NO_LABEL


class MaskedMean(Metric):
    """The mean of one number an image, over the images whose label is known.

    torchmetrics' own ``MeanMetric`` and ``MulticlassAccuracy`` look at the values (for NaN, for labels outside the
    classes) or pick out the known ones, and each time the host waits until the accelerator has come so far.
    """

    total: Tensor
    known: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("known", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor, labels: Tensor) -> None:
        """(B,) numbers or truth values and (B,) labels, -1 where unknown."""
        is_known = labels != NO_LABEL
        # Not in place: a validation in inference mode leaves tensors that may not be changed outside of it.
        self.total = self.total + torch.where(is_known, values.float(), 0.0).sum()
        self.known = self.known + is_known.sum()

    def compute(self) -> Tensor:
        """The mean, a scalar; NaN where no label is known."""
        return self.total / self.known
