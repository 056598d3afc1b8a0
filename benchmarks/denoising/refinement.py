"""What ``LabelRefinement`` does: the network learns what a probe of the pretrained features says of each label."""

import torch
import torch.nn.functional as F
from denoising.cells import Cell
from denoising.methods import Method, Ours
from torch import Tensor, nn

from lightning_noisy.audit.judging.by_features import judge_by_probe
from lightning_noisy.noise.objective import noisy_objective


class LabelRefinement(Ours):
    """For cells with a pretrained network that ends in a linear layer. Unlike the callback it never steps aside."""

    _soft_labels: Tensor
    """(N, K), of the images of the training that is prepared."""

    @classmethod
    def prepare(cls, cell: Cell, rows: Tensor, seed: int) -> tuple[Cell, Tensor]:
        features = pretrained_features(cell, rows)
        cls._soft_labels = judge_by_probe(
            features, cell.noisy_labels[rows], cell.num_classes, seed=seed
        ).noise.posterior
        return cell, rows

    def loss(self, logits, labels, rows, epoch):
        if epoch != self.counts.epoch:
            self.start_epoch(epoch)
        self.counts.observe(logits, labels, self._soft_labels[rows])
        return noisy_objective(self.layer, logits, labels, soft_labels=self._soft_labels[rows])


class CrossEntropyAlone(LabelRefinement):
    """The same without being drawn to what it agrees with."""

    def loss(self, logits, labels, rows, epoch):
        super().loss(logits, labels, rows, epoch)
        return noisy_objective(self.layer, logits, self._soft_labels[rows])


class WithoutTheLayer(LabelRefinement):
    """The same without a noise layer."""

    def loss(self, logits, labels, rows, epoch):
        self.counts.observe(logits, labels, self._soft_labels[rows])
        return noisy_objective(None, logits, labels, soft_labels=self._soft_labels[rows])


class PruningByTheProbe(Method):
    """The competitor that is given the same features: cleanlab with our own regularised probe out of fold.

    Cross-entropy on what ``find_label_issues`` keeps. Source: Northcutt, Jiang, Chuang 2021, arXiv 1911.00068.
    """

    @classmethod
    def prepare(cls, cell: Cell, rows: Tensor, seed: int) -> tuple[Cell, Tensor]:
        from cleanlab.filter import find_label_issues

        labels = cell.noisy_labels[rows]
        judged = judge_by_probe(pretrained_features(cell, rows), labels, cell.num_classes, seed=seed)
        is_issue = find_label_issues(labels.numpy(), judged.probe_log_probs.exp().numpy(), n_jobs=1)
        return cell, rows[torch.from_numpy(~is_issue)]


class RelabellingByTheProbe(Method):
    """Cross-entropy on the most probable class of each image in the place of its label."""

    _labels: Tensor

    @classmethod
    def prepare(cls, cell: Cell, rows: Tensor, seed: int) -> tuple[Cell, Tensor]:
        features = pretrained_features(cell, rows)
        judged = judge_by_probe(features, cell.noisy_labels[rows], cell.num_classes, seed=seed)
        cls._labels = judged.noise.posterior.argmax(dim=1)
        return cell, rows

    def loss(self, logits, labels, rows, epoch):
        return F.cross_entropy(logits, self._labels[rows])


@torch.no_grad()
def pretrained_features(cell: Cell, rows: Tensor) -> Tensor:
    """(N, D) float16, of the images as they are."""
    network = cell.network().eval()
    assert isinstance(network, nn.Sequential) and isinstance(network[-1], nn.Linear)
    found = [network[:-1](cell.images[part]) for part in rows.split(500)]
    return torch.cat(found).half()


REFINEMENT: dict[str, type[Method]] = {
    "label refinement": LabelRefinement,
    "refinement without the layer": WithoutTheLayer,
    "refinement without agreement": CrossEntropyAlone,
    "cleanlab by the probe": PruningByTheProbe,
    "relabelling by the probe": RelabellingByTheProbe,
}
"""Only trained where it is asked for by name: it needs a pretrained network."""
