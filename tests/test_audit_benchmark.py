"""The audit's benchmark: what it measures against plain counting, its methods on planted errors, and that it runs."""

import functools
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def cell(load):
    """Three classes that are easy to tell, a fifth of the labels moved to the next class."""
    cells = load("denoising.cells")
    generator = torch.Generator().manual_seed(0)
    clean = torch.arange(600) % 3
    images = torch.eye(3)[clean] * 5 + torch.randn(600, 3, generator=generator)
    noisy = torch.where(torch.rand(600, generator=generator) < 0.2, (clean + 1) % 3, clean)
    network = functools.partial(cells.mlp, 3, [], 3)
    truth = torch.eye(3, dtype=torch.float64)
    return cells.Cell(images, noisy, clean, images, clean, truth, network, epochs=10, learning_rate=0.05)


def test_measures_are_what_counting_gives(load):
    verdict = load("auditing.methods").Verdict(
        quality=np.array([0.1, 0.9, 0.2, 0.8, 0.7]),
        is_issue=np.array([True, False, True, True, False]),
        suggested=np.array([0, 9, 2, 0, 9]),
        is_taken=np.array([True, False, True, False, False]),
        error=0.5,
    )
    given, clean = np.array([1, 1, 1, 1, 1]), np.array([0, 1, 1, 0, 1])  # the first and the fourth are wrong
    assert load("auditing.measuring").measure(verdict, given, clean) == {
        "auc": pytest.approx(4 / 6, abs=1e-4),  # of 2 x 3 pairs the fourth loses to the third and the fifth
        "average_precision": pytest.approx((1 + 2 / 4) / 2),
        "precision_at_k": 0.5,
        "flagged": 0.6,
        "f1": pytest.approx(0.8),
        "right_suggestions": pytest.approx(2 / 3, abs=1e-4),
        "put_right": 0.5,
        "error_before": 0.4,
        "error_after": 0.4,  # the first is put right, the third is spoilt
        "error_estimated": 0.5,
    }


def test_without_wrong_labels_only_the_harm_is_measured(load):
    issues = np.array([True, False, False, False])
    verdict = load("auditing.methods").Verdict(np.ones(4), issues, np.zeros(4, int), issues, 0.25)
    measured = load("auditing.measuring").measure(verdict, np.ones(4, int), np.ones(4, int))
    assert measured["auc"] is None and measured["f1"] is None and measured["put_right"] is None
    assert measured["error_before"] == 0 and measured["error_after"] == 0.25


def test_folds_give_the_answer_of_a_network_that_has_not_seen_the_image(load, cell):
    fitting, methods = load("denoising.fitting"), load("denoising.methods")
    predicted = load("auditing.predicting").Predictions(cell, seed=1).of("cross-entropy", 3)
    fold_of = torch.randperm(600, generator=torch.Generator().manual_seed(1)) % 3
    seen, unseen = (torch.nonzero(mask).flatten() for mask in (fold_of != 0, fold_of == 0))
    network, _ = fitting.fit(cell, seen, methods.Method.for_images(cell, len(seen)), 1)
    torch.testing.assert_close(predicted.logits[unseen], fitting.predict(network, cell.images[unseen]))


def test_methods_that_look_at_the_same_predictions_share_the_training(load, cell):
    predictions = load("auditing.predicting").Predictions(cell, seed=0)
    assert predictions.of("cross-entropy", 0) is predictions.of("cross-entropy", 0)
    assert predictions.of("noise layer", 0) is not predictions.of("cross-entropy", 0)


def test_the_posterior_of_a_fold_takes_the_counts_of_its_own_network(load, cell):
    """A network whose labels say all contradicts the image; beside it, one whose labels say nothing does not."""
    predicting, methods = load("auditing.predicting"), load("auditing.methods")
    told, untold = 1e9 * torch.eye(3), torch.ones(3, 3)
    predicted = predicting.Predicted(torch.tensor([[2.0, 0, 0]] * 2), torch.tensor([0, 1]), [told, untold])
    verdict = methods.by_posterior(predicted, torch.tensor([1, 1]))
    assert verdict.is_issue.tolist() == verdict.is_taken.tolist() == [False, True]


def test_every_method_finds_planted_errors_and_puts_them_right(load, cell):
    methods, measure = load("auditing.methods").METHODS, load("auditing.measuring").measure
    predictions = load("auditing.predicting").Predictions(cell, seed=0)
    for name, method in methods.items():
        verdict, seconds = method.audit(predictions)
        measured = measure(verdict, cell.noisy_labels.numpy(), cell.clean_labels.numpy())
        assert measured["error_before"] > 0.15 and seconds > 0
        assert measured["auc"] > 0.98 and measured["f1"] > 0.9 and measured["error_after"] < 0.05, name


def test_the_tables_have_the_labels_as_given_and_leave_out_what_was_not_measured(load, tmp_path):
    report, collect = load("auditing.report"), load("denoising.report").collect
    names = ["auc", "average_precision", "precision_at_k", "f1", "right_suggestions", "put_right", "error_before"]
    names += ["error_after", "error_estimated", "cpu_seconds", "flagged"]
    line = dict(zip(names, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 2.0, 0.5], strict=True))
    clean = {**line, "auc": None, "f1": None, "error_before": 0.0}
    lines = [{"cell": cell, "method": method, "seed": seed, **values} for cell, values in (("a", line), ("b", clean))
             for method in (report.OURS, "cross-entropy, in sample") for seed in range(2)]  # fmt: skip
    methods = [report.OURS, "cross-entropy, in sample", "not run"]
    report.write_tables(collect(lines), ["a", "b"], methods, tmp_path / "audit.md")
    parts = (tmp_path / "audit.md").read_text(encoding="utf-8").split("## ")
    of = {part.split("\n")[0].split(" ")[0]: part for part in parts}
    assert "| a | 2 | 0.900 | 0.900 |  |" in of["Area"] and "| b |" not in of["Area"]
    assert "| a | 0.600 ± 0.000 | 0.600 ± 0.000 |  |" in of["F1"]
    assert "| b | 0.000 | 0.200 | 0.200 |  |" in parts[7]
    assert "| a | 1.00 | 1.00 |  |" in of["Processor"]


@pytest.mark.slow
def test_it_runs_and_repeats_nothing(tmp_path, monkeypatch):
    output = tmp_path / "results.jsonl"
    monkeypatch.syspath_prepend(BENCHMARKS)
    options = ["--quick", "--output", str(output), "--methods", "noise layer", "cross-entropy, in sample"]
    for _ in range(2):
        importlib.import_module("audit").main(options)
    lines = [json.loads(line) for line in output.open()]
    assert len(lines) == 4 and all(line["auc"] > 0.7 for line in lines)
    assert output.with_suffix(".png").is_file()
    assert "| digits pair:0.4 | 1 |" in output.with_suffix(".md").read_text(encoding="utf-8")
