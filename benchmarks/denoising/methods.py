"""The competitors: what each trains on, behind one interface."""

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from denoising.cells import Cell
from torch import Tensor

from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.counting import add_confidence, add_label_counts, counts_to_shares
from lightning_noisy.noise.functional import log_transition_matrix
from lightning_noisy.noise.initial import add_confusion, from_anchor_points, from_confusion
from lightning_noisy.noise.objective import noisy_objective
from lightning_noisy.noise.warmup import Warmup


class Method:
    """Plain cross-entropy; the others change what differs.

    Args:
        num_classes: ``K``.
        num_images: ``N``, training images.
        epochs: Length of the training.
        steps_in_epoch: Batches of an epoch.
        true_matrix: (K, K), for the genie alone.
    """

    def __init__(
        self, num_classes: int, num_images: int, epochs: int, steps_in_epoch: int, true_matrix: Tensor
    ) -> None:
        self.num_classes, self.num_images = num_classes, num_images
        self.epochs, self.steps_in_epoch = epochs, steps_in_epoch

    @classmethod
    def for_images(cls, cell: Cell, num_images: int) -> "Method":
        """The method for a training on so many images of a cell."""
        return cls(cell.num_classes, num_images, cell.epochs, num_images // cell.batch_size, cell.transition_matrix)

    @classmethod
    def prepare(cls, cell: Cell, rows: Tensor, seed: int) -> tuple[Cell, Tensor]:
        """What happens before the training: the cell, perhaps with other labels, and (N,) which images to train on."""
        return cell, rows

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What is trained beside the network."""
        return []

    def loss(self, logits: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """(B, K) logits, (B,) noisy labels, (B,) which images -> scalar."""
        return F.cross_entropy(logits, labels)

    def end_epoch(self, epoch: int, logits: Tensor, labels: Tensor) -> None:
        """Sees the logits (N, K) that training met in this epoch, if :attr:`looks_at_epochs`."""

    looks_at_epochs = False

    def validated(self, epoch: int, logits: Tensor, labels: Tensor) -> None:
        """Sees what the network, after this epoch, makes of the noisy validation images, (V, K) and (V,)."""

    def transition_matrix(self) -> Tensor | None:
        """(K, K), the estimate."""
        return None


class LabelSmoothing(Method):
    """Smoothing of 0.1."""

    def loss(self, logits, labels, rows, epoch):
        return F.cross_entropy(logits, labels, label_smoothing=0.1)


class GCE(Method):
    """Generalised cross-entropy, q = 0.7. Source: Zhang, Sabuncu 2018, arXiv 1805.07836."""

    def loss(self, logits, labels, rows, epoch):
        given = logits.softmax(dim=1).gather(1, labels[:, None]).clamp_min(1e-7)
        return ((1 - given**0.7) / 0.7).mean()


class SCE(Method):
    """Symmetric cross-entropy, alpha 0.1, beta 1, A = -4. Source: Wang et al. 2019, arXiv 1908.06112."""

    def loss(self, logits, labels, rows, epoch):
        given = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        return 0.1 * F.cross_entropy(logits, labels) + 4 * (1 - given).mean()


class ELR(Method):
    """Early-learning regularisation, beta 0.7, lambda 3. Source: Liu et al. 2020, arXiv 2007.00151."""

    def __init__(self, *args):
        super().__init__(*args)
        self.targets = torch.zeros(self.num_images, self.num_classes)

    def loss(self, logits, labels, rows, epoch):
        probs = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
        seen = probs.detach() / probs.detach().sum(dim=1, keepdim=True)
        self.targets[rows] = 0.7 * self.targets[rows] + 0.3 * seen.float()
        agreement = (self.targets[rows] * probs).sum(dim=1)
        return F.cross_entropy(logits, labels) + 3 * torch.log((1 - agreement).clamp_min(1e-4)).mean()


def early(epochs: int) -> int:
    """A warm-up of 15% of the training, for the methods that need one."""
    return max(1, round(0.15 * epochs))


class ByNoiseLayer(Method):
    """Any noise layer of the package, followed as its trainers do it."""

    def __init__(self, *args, **settings):
        super().__init__(*args)
        self.layer = NoiseLayer(NoiseConfig(**{**settings, "num_classes": self.num_classes}))
        self.layer.warmup = Warmup.plan(self.layer.config, self.epochs, self.steps_in_epoch)
        self.epoch, self.counts, self.confidence = -1, None, None

    def parameter_groups(self, lr):
        parameters = [p for p in self.layer.parameters() if p.requires_grad]
        scaled = lr * self.layer.config.lr_scale
        return [{"params": parameters, "lr": scaled, "weight_decay": 0.0}] if parameters else []

    def loss(self, logits, labels, rows, epoch):
        in_warmup = epoch < self.layer.warmup_epochs
        if epoch > self.epoch:
            self.epoch = epoch
            if self.counts is not None:
                self.follow(self.counts, acts=not in_warmup)
            self.counts = self.confidence = None
        self.counts = add_label_counts(self.counts, logits, labels)
        self.confidence = add_confidence(self.confidence, logits, labels)
        return noisy_objective(self.layer, logits, labels, in_warmup)

    def follow(self, counts: Tensor, acts: bool) -> None:
        """Tells the layer what the last epoch has counted, (K, K)."""
        self.layer.follow(counts, acts)

    def validated(self, epoch, logits, labels):
        of_validation = (logits.argmax(dim=1) == labels).double().mean(), F.cross_entropy(logits, labels)
        in_training = self.counts.trace() / self.counts.sum(), self.confidence / self.counts.sum()
        self.layer.warmup.validated(epoch, *map(float, (*of_validation, *in_training)))

    def transition_matrix(self):
        return self.layer.transition_matrix().double()


PLAIN: dict[str, Any] = {"init": "identity", "class_balance": 0.0, "rescue_below": 0.0}
"""Settings of a noise layer without what is this package's own."""


class Genie(ByNoiseLayer):
    """Forward correction with the true T. Source: Patrini et al. 2017, arXiv 1609.03683."""

    def __init__(self, *args):
        settings = {"noise_type": "stochastic", "trainable": False, "warmup_epochs": 0, **PLAIN}
        super().__init__(*args, transition_matrix=args[-1].tolist(), **settings)


class ForwardAnchor(ByNoiseLayer):
    """Forward correction with T from anchor points of a first half of plain cross-entropy. Source: as the genie's."""

    looks_at_epochs = True

    def __init__(self, *args):
        super().__init__(*args, noise_type="stochastic", trainable=False, warmup_epochs=args[2] // 2, **PLAIN)

    def end_epoch(self, epoch, logits, labels):
        if epoch + 1 == self.layer.config.warmup_epochs:
            self.layer.reset(from_anchor_points(logits))


class SModel(ByNoiseLayer):
    """A learned stochastic T that starts from the warm-up's soft confusion. Source: Goldberger, Ben-Reuven 2017."""

    looks_at_epochs = True

    def __init__(self, *args):
        super().__init__(*args, noise_type="stochastic", lr_scale=1.0, warmup_epochs=early(args[2]), **PLAIN)

    def end_epoch(self, epoch, logits, labels):
        if epoch + 1 == self.layer.config.warmup_epochs:
            self.layer.reset(from_confusion(add_confusion(None, logits, labels)))


class TracePenalty(ByNoiseLayer):
    """A learned T whose trace is penalised (weight 0.1). Source: Sukhbaatar et al. 2014, arXiv 1406.2080."""

    def __init__(self, *args):
        super().__init__(*args, noise_type="stochastic", lr_scale=1.0, warmup_epochs=early(args[2]), **PLAIN)

    def loss(self, logits, labels, rows, epoch):
        penalty = log_transition_matrix(self.layer.weight, "stochastic").exp().diagonal().mean()
        return super().loss(logits, labels, rows, epoch) + 0.1 * penalty


class VolMinNet(ByNoiseLayer):
    """A learned T of small volume (log determinant, weight 1e-4). Source: Li et al. 2021, arXiv 2102.02400."""

    def __init__(self, *args):
        super().__init__(*args, noise_type="stochastic", lr_scale=10.0, warmup_epochs=0, **PLAIN)

    def loss(self, logits, labels, rows, epoch):
        volume = log_transition_matrix(self.layer.weight, "stochastic").exp().slogdet().logabsdet
        return super().loss(logits, labels, rows, epoch) + 1e-4 * volume


class Published(ByNoiseLayer):
    """The layer exactly as published. Source: Jindal, Nokleby, Chen 2016, arXiv 1705.03419."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **{**asdict(NoiseConfig.paper()), **settings})


class Ours(ByNoiseLayer):
    """The package's default; its estimate of T are the counts of the last epoch."""

    def transition_matrix(self):
        return counts_to_shares(self.counts.double())


class WithoutCounting(Ours):
    """The default whose matrix starts at the identity and is learned by gradients alone."""

    def __init__(self, *args):
        super().__init__(*args, init="identity")


class WithoutBalancing(Ours):
    """The default with the same weight for all labels."""

    def __init__(self, *args):
        super().__init__(*args, class_balance=0.0)


class WithoutRescue(Ours):
    """The default that lets classes go."""

    def __init__(self, *args):
        super().__init__(*args, rescue_below=0.0)


class WithoutGrowth(Ours):
    """The default whose warm-up does not look at the validation."""

    def validated(self, epoch, logits, labels):
        """Sees nothing."""


class ShortWarmup(Ours):
    """The default with one epoch of warm-up."""

    def __init__(self, *args):
        super().__init__(*args, warmup_epochs=1)


class TrueMatrix(Ours):
    """The default whose layer is set to the true T where the default sets it to the counted one."""

    def __init__(self, *args):
        super().__init__(*args)
        matrix = args[-1].float()
        self.weight = matrix.T / matrix.diagonal().mean()

    @torch.no_grad()
    def follow(self, counts, acts):
        super().follow(counts, acts)
        if acts:
            self.layer.weight.copy_(self.layer.warmup.push * self.weight)


class WithCrossEntropy(Ours):
    """The default with a share of plain cross-entropy kept after the warm-up."""

    def __init__(self, *args):
        super().__init__(*args, clean_loss_weight=0.3)


ABLATIONS: dict[str, type[Method]] = {
    "without counting": WithoutCounting,
    "without balancing": WithoutBalancing,
    "without rescue": WithoutRescue,
    "without growth": WithoutGrowth,
    "true matrix": TrueMatrix,
    "one epoch of warm-up": ShortWarmup,
    "30% cross-entropy": WithCrossEntropy,
}
"""The default without one of its parts or with another; only trained where they are asked for by name."""

METHODS: dict[str, type[Method]] = {
    "cross-entropy": Method,
    "label smoothing": LabelSmoothing,
    "GCE": GCE,
    "SCE": SCE,
    "ELR": ELR,
    "genie": Genie,
    "forward, anchor points": ForwardAnchor,
    "s-model": SModel,
    "trace penalty": TracePenalty,
    "VolMinNet": VolMinNet,
    "layer as published": Published,
    "noise layer": Ours,
}
