"""`lightning-noisy noise`: the noise of a checkpoint in words, as CSV and as a picture."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lightning_noisy.cli import export_commands as commands
from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.export.noise_estimate import estimate_noise
from lightning_noisy.export.noise_report import noise_of_checkpoint, show_noise, write_noise
from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.counting import triples_to_counts

TRIPLES = [[0, 0, 60], [0, 1, 20], [1, 1, 90], [1, 2, 10], [2, 2, 15], [2, 0, 5]]
NAMES = ["=cat()", "dog [red]", "bird"]


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def printed(estimate):
    console = Console(width=100, record=True)
    show_noise(console, estimate)
    return console.export_text()


def test_it_tells_the_rate_the_classes_and_the_pairs(tmp_path):
    estimate = estimate_noise(NoiseLayer(3), TRIPLES, NAMES)
    text = printed(estimate)
    assert "About 17.5% of the training labels are wrong" in text  # 35 of 200
    order = [text.index(name) for name in ("bird", "dog [red]", "=cat()")]  # 40%, 18% and 8% wrong
    assert order == sorted(order) and "40.0%" in text and "18.2%" in text and "7.7%" in text
    assert "25.0%" in text[text.index("Most confused") :]  # 20 of the 80 cats are called dogs
    written = write_noise(tmp_path / "noise", estimate, NAMES)
    assert [file.name for file in written[:2]] == ["transition_matrix.csv", "label_counts.csv"]
    held = np.array([row[1:] for row in rows(written[0])[1:]], dtype=float)
    np.testing.assert_allclose(held, NoiseLayer(3).transition_matrix().numpy(), rtol=1e-5)
    files = written[1:]
    counts = triples_to_counts(TRIPLES, 3).numpy()
    matrix = np.array([row[1:] for row in rows(files[0])[1:]], dtype=float)
    np.testing.assert_allclose(matrix, counts / counts.sum(axis=1, keepdims=True), rtol=1e-6)
    assert NoiseConfig(transition_matrix=str(files[0])).num_classes == 3  # it is a matrix to start from
    assert [row[0] for row in rows(files[1])] == ["class", "bird", "dog [red]", "'=cat()"]
    assert rows(files[2])[1] == ["'=cat()", "dog [red]", "0.25", "20"]
    with Image.open(files[3]) as picture:
        assert picture.width > picture.height > 300


def test_without_counts_it_is_the_layers_own_matrix():
    text = printed(estimate_noise(NoiseLayer(NoiseConfig(3, transition_matrix=torch.eye(3).tolist())), [], NAMES))
    assert "the checkpoint holds no counts" in text


def test_the_command_reads_a_checkpoint(lightning_checkpoint, tmp_path, capsys):
    commands.run(["noise", "--ckpt_path", str(lightning_checkpoint)])
    assert "--output DIR writes all of it" in capsys.readouterr().out
    commands.run(["noise", f"--ckpt_path={lightning_checkpoint}", f"--output={tmp_path / 'noise'}", "--most_pairs=1"])
    said = capsys.readouterr().out
    record = load_checkpoint(lightning_checkpoint).record
    counts = triples_to_counts(record.label_counts, 3)
    assert f"About {1 - counts.trace() / counts.sum():.1%} of the training labels" in said and "noise.png" in said
    assert len(rows(tmp_path / "noise" / "pairs.csv")) <= 2
    assert len(rows(tmp_path / "noise" / "classes.csv")) == 4


def test_mistakes_end_in_one_sentence(lightning_checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="most_pairs"):
        noise_of_checkpoint(lightning_checkpoint, -1)
    with pytest.raises(ValueError, match=r"missing\.ckpt"):
        noise_of_checkpoint(tmp_path / "missing.ckpt")
    monkeypatch.setattr("lightning_noisy.export.noise_report.estimate_noise", lambda *arguments: None)
    with pytest.raises(ValueError, match="to be a training with a noise layer"):
        noise_of_checkpoint(lightning_checkpoint)
