"""The denoising benchmark: its competitors' losses against formulas, and that it runs."""

import importlib
import json
import subprocess
import sys
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
    return kind(4, 6, 8, torch.eye(4, dtype=torch.float64))


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


@pytest.mark.slow
def test_it_runs_and_repeats_nothing(tmp_path):
    output = tmp_path / "results.jsonl"
    command = [sys.executable, str(BENCHMARKS / "denoise.py"), "--quick", "--output", str(output)]
    for _ in range(2):
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in output.open()]
    assert len(lines) == 4 and all(0.3 < line["last"] <= 1 for line in lines)
    assert output.with_suffix(".png").is_file()
