"""The denoising benchmark: its competitors' losses against formulas, and that it runs."""

import dataclasses
import functools
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("denoising.methods")


def loss_of(method, logits, labels):
    rows = torch.arange(len(labels))
    return method.loss(torch.from_numpy(logits), torch.from_numpy(labels), rows, epoch=0).item()


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return generator.normal(size=(6, 4)), generator.integers(4, size=6)


def build(kind):
    return kind(4, 6, 8, 3, torch.eye(4, dtype=torch.float64))


def test_losses_are_their_formulas(methods, batch):
    logits, labels = batch
    probs = softmax(logits, axis=1)
    given = probs[np.arange(6), labels]
    assert loss_of(build(methods.GCE), *batch) == pytest.approx(np.mean((1 - given**0.7) / 0.7))
    symmetric = -0.1 * np.log(given) - np.array(
        [(p * np.where(np.arange(4) == y, 0, -4)).sum() for p, y in zip(probs, labels, strict=True)]
    )
    assert loss_of(build(methods.SCE), *batch) == pytest.approx(symmetric.mean())
    penalty = np.log(1 - 0.3 * (probs**2).sum(axis=1))
    assert loss_of(build(methods.ELR), *batch) == pytest.approx(np.mean(-np.log(given) + 3 * penalty), rel=1e-4)


def test_the_genie_without_noise_is_cross_entropy(methods, batch):
    assert loss_of(build(methods.Genie), *batch) == pytest.approx(loss_of(build(methods.Method), *batch), rel=1e-5)


def test_estimates_start_when_the_warm_up_is_over(methods, batch):
    logits, labels = (torch.from_numpy(part) for part in batch)
    for kind in (methods.ForwardAnchor, methods.SModel):
        method = build(kind)
        before = method.transition_matrix()
        for epoch in range(method.layer.config.warmup_epochs):
            torch.testing.assert_close(method.transition_matrix(), before)
            method.end_epoch(epoch, logits, labels)
        assert not torch.allclose(method.transition_matrix(), before)


def counted(logits, labels):
    counts = np.zeros((4, 4))
    np.add.at(counts, (logits.argmax(dim=1).numpy(), labels.numpy()), 1)
    return counts


def test_ours_takes_the_counts_of_an_epoch_in_the_next_one(methods, batch):
    logits, labels = (torch.from_numpy(part) for part in batch)
    method = build(methods.Ours)
    start = method.layer.weight.clone()
    method.loss(logits, labels, torch.arange(6), 0)
    assert torch.equal(method.layer.weight, start)
    method.loss(logits, labels, torch.arange(6), 1)
    counts = counted(logits, labels)
    smoothed = (counts + 0.25) / (counts + 0.25).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(method.layer.transition_matrix().numpy(), smoothed, rtol=1e-5)
    assert method.transition_matrix().sum(dim=1).numpy() == pytest.approx(1)


def test_the_true_matrix_takes_the_place_of_the_counted_one(methods, batch):
    logits, labels = (torch.from_numpy(part) for part in batch)
    matrix = torch.full((4, 4), 0.1, dtype=torch.float64) + torch.diag(torch.tensor([0.6, 0.6, 0.6, 0.6]))
    method = methods.TrueMatrix(4, 6, 8, 3, matrix)
    for epoch in range(2):
        method.loss(logits, labels, torch.arange(6), epoch)
    np.testing.assert_allclose(method.layer.transition_matrix().numpy(), matrix.numpy(), rtol=1e-6)
    reported = method.transition_matrix().numpy()  # what is reported stays the counts
    assert reported[int(logits[0].argmax()), int(labels[0])] > 0 and not np.allclose(reported, matrix)


def test_ours_is_told_by_the_validation_whether_labels_are_learned_by_heart(methods):
    logits, labels = 9 * torch.eye(4).repeat(20, 1), torch.arange(4).repeat(20)
    labels[::5] = (labels[::5] + 1) % 4
    predicted = logits.argmax(dim=1)
    for seen, share in ((predicted, 0), ((predicted + 1) % 4, 1)):  # better than the training, and worse
        method = build(methods.Ours)
        for epoch in range(2):
            method.loss(logits, labels, torch.arange(80), epoch)
            method.validated(logits, seen)
        assert method.layer.share == 1 / 8  # in the first epoch nobody knows
        method.loss(logits, labels, torch.arange(80), 2)
        assert method.layer.share == share


@pytest.fixture
def planted(methods):
    """Three classes that are easy to tell, a fifth of the labels moved to the next class."""
    cells = importlib.import_module("denoising.cells")
    generator = torch.Generator().manual_seed(0)
    clean = torch.arange(600) % 3
    images = torch.eye(3)[clean] * 5 + torch.randn(600, 3, generator=generator)
    noisy = torch.where(torch.rand(600, generator=generator) < 0.2, (clean + 1) % 3, clean)
    network = functools.partial(cells.mlp, 3, [], 3)
    truth = torch.eye(3, dtype=torch.float64)
    return cells.Cell(images, noisy, clean, images, clean, truth, network, epochs=10, learning_rate=0.05, batch_size=32)


def test_cleanlab_drops_wrong_labels_of_classes_that_are_easy_to_tell(planted):
    pruning = importlib.import_module("denoising.cleanlab_pruning")
    cell, kept = pruning.CleanlabPruning.prepare(planted, torch.arange(600), seed=0)
    assert cell is planted
    is_wrong = planted.noisy_labels != planted.clean_labels
    assert is_wrong.double().mean() > 0.15 and len(kept) > 400
    assert is_wrong[kept].double().mean() < 0.03


@pytest.mark.parametrize("name", ["second stage", "second stage, 5 folds"])
def test_a_second_stage_trains_on_corrected_labels_and_leaves_those_that_are_held_out(planted, name):
    second = importlib.import_module("denoising.second_stage").SECOND_STAGES[name]
    cells, generator = importlib.import_module("denoising.cells"), torch.Generator().manual_seed(0)
    images = torch.eye(20)[planted.clean_labels] * 4 + torch.randn(600, 20, generator=generator)
    network = functools.partial(cells.mlp, 20, [64], 3)  # one that learns labels by heart: else the layer waits
    planted = dataclasses.replace(planted, images=images, network=network, epochs=20, learning_rate=0.01)
    rows = torch.arange(500)
    cell, kept = second.prepare(planted, rows, seed=0)
    is_wrong = cell.noisy_labels != planted.clean_labels
    assert torch.equal(kept, rows) and (planted.noisy_labels != planted.clean_labels)[:500].double().mean() > 0.15
    assert is_wrong[:500].double().mean() < 0.03
    assert torch.equal(cell.noisy_labels[500:], planted.noisy_labels[500:])


def test_an_augmented_cell_changes_each_image_on_its_own(methods):
    cells = importlib.import_module("denoising.cells")
    torch.manual_seed(0)
    image = torch.arange(3 * 16 * 16, dtype=torch.uint8).reshape(1, 3, 16, 16)
    changed = cells.shift_and_mirror(image.repeat(32, 1, 1, 1))
    assert changed.shape == (32, 3, 16, 16) and changed.dtype == torch.uint8
    assert len({tuple(one.flatten().tolist()) for one in changed}) > 20


def test_training_sees_the_augmented_images(planted, methods):
    fitting = importlib.import_module("denoising.fitting")
    rows, seen = torch.arange(64), []

    def augment(images):
        seen.append(images)
        return torch.zeros_like(images)

    def train(change):
        cell = dataclasses.replace(planted, epochs=1, augment=change)
        return fitting.fit(cell, rows, methods.Method.for_images(cell, len(rows)), seed=0)[0][1].weight

    start = (torch.manual_seed(0), planted.network()[1].weight)[1]
    assert not torch.allclose(train(None), start, atol=0.02)
    torch.testing.assert_close(train(augment), start, atol=0.01, rtol=0)  # of images of zeros only the bias learns
    assert len(seen) == 2 and torch.equal(torch.cat(seen).sort(dim=0)[0], planted.images[:64].sort(dim=0)[0])


def test_the_gap_is_measured_against_the_same_cell_without_noise(methods):
    report = importlib.import_module("denoising.report")
    names = [
        "digits uniform:0",
        "digits pair:0.4",
        "cifar10n clean, mlp",
        "cifar10n clean, linear",
        "cifar10n worse, mlp",
    ]
    assert report.clean_twin("digits pair:0.4", names) == "digits uniform:0"
    assert report.clean_twin("cifar10n worse, mlp", names) == "cifar10n clean, mlp"
    accuracies = {("digits uniform:0", "cross-entropy"): 0.9, ("digits pair:0.4", "cross-entropy"): 0.5}
    accuracies["digits pair:0.4", "noise layer"] = 0.8
    results = {key: [{"last": value}] for key, value in accuracies.items()}
    assert report.gap(results, "digits pair:0.4", names, "noise layer") == pytest.approx(0.75)
    assert report.gap(results, "digits uniform:0", names, "cross-entropy") is None


def test_the_means_are_over_the_noisy_cells_that_both_were_trained_in(methods):
    report = importlib.import_module("denoising.report")
    accuracies = {
        "digits uniform:0": {"cross-entropy": 0.9, "noise layer": 0.8},
        "digits pair:0.4": {"cross-entropy": 0.5, "noise layer": 0.8, "GCE": 0.6},
        "digits uniform:0.5": {"cross-entropy": 0.7, "noise layer": 0.81},
    }
    results = {(cell, name): [{"last": value}] for cell, of in accuracies.items() for name, value in of.items()}
    rows = report.means(results, list(accuracies), ["cross-entropy", "GCE", "ELR", "noise layer"])
    assert rows[0] == ["cross-entropy", "2", "0.600", "0.805", "0% (2)"]
    assert rows[1:] == [["GCE", "1", "0.600", "0.800", "25% (1)"], ["noise layer", "2", "0.805", "0.805", "65% (2)"]]


@pytest.mark.slow
def test_it_runs_and_repeats_nothing(tmp_path, monkeypatch):
    output = tmp_path / "results.jsonl"
    monkeypatch.syspath_prepend(BENCHMARKS)
    for _ in range(2):
        importlib.import_module("denoise").main(["--quick", "--output", str(output)])
    lines = [json.loads(line) for line in output.open()]
    assert len(lines) == 4 and all(0.3 < line["last"] <= 1 for line in lines)
    assert output.with_suffix(".png").is_file()
    assert "| digits pair:0.4 | 1 |" in output.with_suffix(".md").read_text(encoding="utf-8")
