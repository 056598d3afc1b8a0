"""An audit without a training: a frozen backbone's features, a linear probe out of fold, and the noise fitted to it."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.utilities import rank_zero_info
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from lightning_noisy.audit.issues.columns import Pictures, is_in_conflict, issue_columns
from lightning_noisy.audit.issues.counting import summarise_issues
from lightning_noisy.audit.issues.duplicates import find_duplicates
from lightning_noisy.audit.issues.outliers import outlier_scores
from lightning_noisy.audit.issues.similar_classes import similar_classes
from lightning_noisy.audit.issues.split_classes import split_classes
from lightning_noisy.audit.judging.scores import score_posterior, share_evidence
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.run import AuditRun, LabelScan, images_to_audit, one_device
from lightning_noisy.audit.schema import SPLITS, part_schema
from lightning_noisy.audit.summary import Share, wilson
from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.features import Features, extract_features, read_features
from lightning_noisy.features.extract import build_frozen, features_key
from lightning_noisy.features.neighbours import neighbour_shares
from lightning_noisy.features.probe import FoldedProbe, choose_strength
from lightning_noisy.inference.facts import facts_arrays
from lightning_noisy.inference.images import AllImages, unique_over_splits
from lightning_noisy.inference.parts import PartWriter, part_files
from lightning_noisy.noise.functional import NO_LABEL
from lightning_noisy.noise.latent import FittedNoise, fit_noise

FOLDS = 5
NEIGHBOURS = 30
FEATURES_FOLDER = "features"
ROWS_AT_ONCE = 50_000
PROBE_ISSUE_BELOW = 0.7
"""An image whose given label is less probable than this is an issue. Chosen on 4,000 images with 7 kinds of labels; the
images of the benchmark are others."""


@dataclass(frozen=True)
class ProbeJudgement:
    """What features alone say of ``N`` given labels.

    Args:
        noise: The posterior by which the labels are ranked.
        errors: The share of wrong labels, and between which it lies.
        probe_log_probs: (N, K) of the given labels, by the probe that has not learned from the image.
        neighbour_shares: (N, K) of each label among the nearest other images.
        neighbours: How many these are.
        fold_of: (N,) int64, the fold of each image.
    """

    noise: FittedNoise
    errors: Share
    probe_log_probs: Tensor
    neighbour_shares: Tensor
    neighbours: int
    fold_of: Tensor


def audit_by_features(
    backbone: str | nn.Module,
    datamodule: NoisyImageDataModule,
    output: str | Path | None = None,
    *,
    trainer: L.Trainer | None = None,
    features: str | Path | None = None,
    folds: int = FOLDS,
    probabilities: bool = False,
    pretrained: bool = True,
) -> LabelAudit:
    """Which of the given labels are wrong, from the features of a backbone that nobody has trained on these data.

    Each label is judged by probes that have not learned from it. In several processes every one of them must call it.

    Args:
        backbone: ``"timm:NAME"``, ``"timm:local-dir:DIR"``, ``"hf:REPO_OR_DIR"`` or an image classifier in memory.
        datamodule: The images and their given labels.
        output: A folder for the audit, which all processes share; without it the audit is kept in a temporary one until
            it is written.
        trainer: Decides on devices, processes and precision; by default one device of the best kind.
        features: The folder of the features: those that are there already, or where to keep them; by default
            ``features`` within ``output``.
        folds: How many probes, each for the images that it has not learned from.
        probabilities: Whether to keep the posterior of all classes too, in ``probabilities.parquet``.
        pretrained: Whether to load the backbone's pretrained weights.

    Raises:
        ValueError: If the backbone can't be loaded, a class has too few images, or ``output`` holds another audit.
    """
    images = images_to_audit(datamodule)
    _check_labels(images, datamodule.class_names, folds)
    trainer = trainer or one_device()
    model = build_frozen(backbone, datamodule, pretrained)
    audit_id = _audit_id(features_key(model, datamodule, trainer), datamodule, images, folds)
    name = backbone if isinstance(backbone, str) else type(backbone).__name__
    judge = f"a linear probe on the features of {name}"
    run = AuditRun(trainer, datamodule, images, audit_id, judge, folds, probabilities)

    def folder(directory: Path) -> Path:
        return directory / FEATURES_FOLDER if features is None else Path(features).expanduser()

    def look_at_all(directory: Path) -> None:
        extract_features(model, datamodule, folder(directory), trainer=trainer, name=name)

    def judge_all(directory: Path) -> LabelScan:
        found, device = read_features(folder(directory)), trainer.strategy.root_device
        return _judge_all(found, images, datamodule, directory, folds, probabilities, device)

    return run.make(output, look_at_all, judge_all)


def judge_by_probe(
    features: Tensor, noisy_labels: Tensor, num_classes: int, folds: int = FOLDS, seed: int = 0,
    device: torch.device | str = "cpu", group: Tensor | None = None,
) -> ProbeJudgement:  # fmt: skip
    """How probable each given label is, from features alone.

    Two witnesses say what they expect without having seen an image's own label: a linear probe out of fold, and the
    nearest other images. The noise layer is fitted to both by maximum likelihood. Then the probe learns once more, from
    the posterior in place of the labels, and the noise is fitted to that.

    Images of the same picture are judged by a probe that has seen none of them, and are no neighbours of each other;
    where their labels differ, each of these tells of the one class that the picture has.

    Args:
        features: (N, D).
        noisy_labels: (N,) int64, given labels.
        num_classes: Number of classes ``K``.
        folds: Number of probes.
        seed: Draws the folds.
        device: Where to compute.
        group: (N,) int64, the same number for images of the same picture, -1 of an image that is alone.
    """
    group = torch.full_like(noisy_labels, -1) if group is None else group
    picture = torch.where(group >= 0, group, len(group) + torch.arange(len(group)))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    fold_of = torch.empty(len(noisy_labels), dtype=torch.long)
    for fold, (_, rows) in enumerate(splitter.split(np.zeros(len(noisy_labels)), noisy_labels.numpy())):
        fold_of[torch.from_numpy(rows)] = fold
    _, first_copy, of_picture = np.unique(picture.numpy(), return_index=True, return_inverse=True)
    fold_of = fold_of[torch.from_numpy(first_copy[of_picture])]
    probe = FoldedProbe(features, fold_of, num_classes, device)
    first = choose_strength(probe, noisy_labels)
    k = min(NEIGHBOURS, max(len(features) // (4 * num_classes), 5))
    shares = neighbour_shares(features, noisy_labels, num_classes, k, seed, device, picture)
    similar = torch.logaddexp((k * shares).log(), first.log_probs) - math.log(k + 1)
    on_labels = fit_noise([first.log_probs, similar], noisy_labels)
    probe.fit(on_labels.posterior, first.strength)
    on_posterior = fit_noise([probe.out_of_fold(), similar], noisy_labels)
    errors = _errors(on_labels, on_posterior, first.log_probs, noisy_labels)
    noise = _with_evidence_of_copies(on_posterior, noisy_labels, group)
    return ProbeJudgement(noise, errors, first.log_probs, shares, k, fold_of)


def _with_evidence_of_copies(noise: FittedNoise, noisy_labels: Tensor, group: Tensor) -> FittedNoise:
    """Labels that agree add nothing: who has copied the picture has copied its label."""
    differ = torch.from_numpy(is_in_conflict(group.numpy(), noisy_labels.numpy()))
    log_evidence = noise.transition_matrix.log()
    in_conflict = group.masked_fill(~differ, -1)
    posterior = share_evidence(noise.posterior, noise.clean_log_probs, log_evidence, noisy_labels, in_conflict)
    return replace(noise, posterior=posterior)


def _errors(on_labels: FittedNoise, on_posterior: FittedNoise, log_probs: Tensor, noisy_labels: Tensor) -> Share:
    """The estimate is the first fit's; the second believes its own posterior and finds too little.

    Where the labels of a class are wrong and where a class is hard can't be told apart for certain: the interval goes
    from half of what the second fit finds to all that the probe disagrees with.
    """
    value, least = (1 - _of_labels(fit, noisy_labels).mean().item() for fit in (on_labels, on_posterior))
    disagreeing = (log_probs.argmax(dim=1) != noisy_labels).double().mean().item()
    return Share(value, min(least / 2, value), max(wilson(disagreeing, len(noisy_labels))[1], value))


def _of_labels(fit: FittedNoise, noisy_labels: Tensor) -> Tensor:
    return fit.posterior.double().gather(1, noisy_labels[:, None]).squeeze(1)


def _judge_all(
    features: Features, images: AllImages, datamodule: NoisyImageDataModule, directory: Path, folds: int,
    probabilities: bool, device: torch.device,
) -> LabelScan:  # fmt: skip
    rows, positions, labels = _positions_and_labels(features, images)
    in_order = len(rows) == len(features.values) and bool((np.diff(rows) == 1).all())
    values = features.values if in_order else features.values[torch.from_numpy(rows)]
    num_classes = datamodule.num_classes
    rank_zero_info(f"Looking for duplicates among {len(features):,} images")
    pictures = _pictures(features, datamodule)
    duplicates = find_duplicates(pictures.facts, features.values, datamodule.seed, device)
    group = torch.from_numpy(duplicates.group[rows])
    rank_zero_info(f"Judging {len(labels):,} labels by a linear probe in {folds} folds")
    judged = judge_by_probe(values, labels, num_classes, folds, datamodule.seed, device, group)
    scored = score_posterior(judged.noise.posterior, judged.noise.clean_log_probs, labels, PROBE_ISSUE_BELOW)
    columns: dict[str, Any] = {"given_label": labels, **scored._asdict()}
    if probabilities:
        columns["probabilities"] = judged.noise.posterior
    for left_over in part_files(directory):  # of a run that was killed: all labels are judged once more
        left_over.unlink()
    writer = PartWriter(directory, part_schema(probabilities))
    for first in range(0, len(positions), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        batch = {name: column[part].numpy() for name, column in columns.items()}
        batch = {name: list(column) if column.ndim == 2 else column for name, column in batch.items()}
        writer.add({"position": positions[part], **batch, **images.columns(positions[part])})
    writer.flush()
    outlyingness = np.full(len(features), np.nan, dtype=np.float32)
    outlyingness[rows] = outlier_scores(
        values, judged.neighbour_shares, labels, judged.fold_of, judged.neighbours, device
    ).numpy()
    issues = issue_columns(pictures, duplicates, outlyingness)
    alike = similar_classes(judged.probe_log_probs, labels, values)
    ids = features.ids.take(pa.array(rows))
    split = split_classes(values, labels, judged.noise.posterior, group, ids)
    found = replace(summarise_issues(issues, pictures, duplicates, rows), similar_classes=alike, split_classes=split)
    issues = issues.take(pa.array(rows)).append_column("position", pa.array(positions))
    return LabelScan(len(positions), issues, found, judged.errors)


def _pictures(features: Features, datamodule: NoisyImageDataModule) -> Pictures:
    """All images that have features, those for testing too."""
    splits = unique_over_splits(datamodule.splits)
    labels, split_of = np.full(len(features), NO_LABEL), np.zeros(len(features), dtype=np.int64)
    for split, part in splits.items():
        rows = features.rows_of(part.ids)
        labels[rows[rows >= 0]] = part.noisy_labels[rows >= 0]
        split_of[rows[rows >= 0]] = SPLITS.index(split)
    return Pictures(facts_arrays(features.facts), labels, split_of)


def _positions_and_labels(features: Features, images: AllImages) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Of all images that have features: rows of the table, positions and given labels; three (M,)."""
    rows, labels = [], []
    for part in images.splits.values():
        rows.append(features.rows_of(part.ids))
        labels.append(part.noisy_labels)
    row = np.concatenate(rows)
    positions = np.flatnonzero(row >= 0)
    return row[positions], positions, torch.from_numpy(np.concatenate(labels)[positions])


def _check_labels(images: AllImages, class_names: list[str], folds: int) -> None:
    if folds < 2:
        raise ValueError(f"Expected argument `folds` to be at least 2 where there is a backbone, but got {folds}.")
    if len(class_names) < 2:
        raise ValueError(f"Expected the data to have two classes or more, but got {class_names} alone.")
    labels = np.concatenate([part.noisy_labels for part in images.splits.values()])
    counts = np.bincount(labels, minlength=len(class_names))
    few = [label for label in range(len(class_names)) if counts[label] < folds]
    if few:
        raise ValueError(
            f"Expected each class to have at least {folds} images, one for each fold, but {class_names[few[0]]!r} has "
            f"{int(counts[few[0]])}. Add some, leave the class out by `data.class_names`, or take fewer `folds`."
        )


def _audit_id(key: str, datamodule: NoisyImageDataModule, images: AllImages, folds: int) -> str:
    digest = hashlib.sha256(json.dumps([key, folds, datamodule.seed, datamodule.class_names]).encode())
    for _, labels in images.blocks():
        digest.update(labels.tobytes())
    return digest.hexdigest()[:32]
