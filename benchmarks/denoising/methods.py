"""The competitors: what each trains on, behind one interface."""

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from denoising.cells import Cell
from torch import Tensor

from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.counting import counts_to_shares
from lightning_noisy.noise.epoch_counts import EpochCounts
from lightning_noisy.noise.functional import log_transition_matrix
from lightning_noisy.noise.initial import add_confusion, from_anchor_points, from_confusion
from lightning_noisy.noise.objective import clean_cross_entropy, noisy_objective


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

    def validated(self, logits: Tensor, labels: Tensor) -> None:
        """Sees what the network, after an epoch, makes of the noisy validation images, (V, K) and (V,)."""

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
    """Any noise layer of the package, told of each epoch as its trainers do it."""

    def __init__(self, *args, **settings):
        super().__init__(*args)
        self.layer = NoiseLayer(NoiseConfig(**{**settings, "num_classes": self.num_classes}))
        self.layer.requires_grad_(self.layer.config.takes_gradients)
        self.layer.to(torch.get_default_device())
        self.counts = EpochCounts()

    def parameter_groups(self, lr):
        parameters = [p for p in self.layer.parameters() if p.requires_grad]
        scaled = lr * self.layer.config.lr_scale
        return [{"params": parameters, "lr": scaled, "weight_decay": 0.0}] if parameters else []

    def loss(self, logits, labels, rows, epoch):
        if epoch != self.counts.epoch:
            self.start_epoch(epoch)
        self.counts.observe(logits, labels)
        return noisy_objective(self.layer, logits, labels)

    def validated(self, logits, labels):
        self.counts.observe_validation(logits, labels)

    def start_epoch(self, epoch: int) -> None:
        """Tells the layer what the last epoch has counted."""
        self.counts.start_epoch(epoch, self.layer)

    def transition_matrix(self):
        return self.layer.transition_matrix().double()


PLAIN: dict[str, Any] = {"init": "identity", "objective": "likelihood", "class_balance": 0.0}
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
        return counts_to_shares(self.counts.so_far().label_counts)


class WithLikelihood(Ours):
    """The default whose counted matrix is used by the published likelihood, no longer by the posterior."""

    def __init__(self, *args):
        super().__init__(*args, objective="likelihood")


class WithoutCounting(Ours):
    """The default whose matrix starts at the identity and is learned by gradients alone, through the likelihood."""

    def __init__(self, *args):
        super().__init__(*args, init="identity")


class WithoutBalancing(Ours):
    """The default with the same weight for all labels."""

    def __init__(self, *args):
        super().__init__(*args, class_balance=0.0)


class WithoutValidation(Ours):
    """The default of a training without a validation."""

    def validated(self, logits, labels):
        """Sees nothing."""


class WithoutFocus(Ours):
    """The default whose cross-entropy gives all images of a label the same weight while the layer's share grows."""

    def loss(self, logits, labels, rows, epoch):
        super().loss(logits, labels, rows, epoch)
        plain = clean_cross_entropy(logits, labels, self.layer.label_weights)
        return torch.lerp(plain, self.layer.posterior_loss(logits, labels), self.layer.share)


class OneEpoch(Ours):
    """The default that acts after one epoch, whatever the network knows by then, and never steps back."""

    def __init__(self, *args):
        super().__init__(*args, warmup_epochs=1)


class TrueMatrix(Ours):
    """The default whose layer is set to the true T where the default sets it to the counted one."""

    def __init__(self, *args):
        super().__init__(*args)
        self.matrix = args[-1]

    def start_epoch(self, epoch):
        super().start_epoch(epoch)
        if epoch > 0:
            self.layer.reset(self.matrix)


ABLATIONS: dict[str, type[Method]] = {
    "likelihood": WithLikelihood,
    "without counting": WithoutCounting,
    "without balancing": WithoutBalancing,
    "without validation": WithoutValidation,
    "without focus": WithoutFocus,
    "one epoch of warm-up": OneEpoch,
    "true matrix": TrueMatrix,
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
