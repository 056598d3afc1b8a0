"""What is logged, against numbers that are computed another way."""

import csv
import io
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from lightning_noisy import NoiseConfig
from lightning_noisy.noise.matrix import mean_row_distance, mean_row_entropy
from lightning_noisy.training.callbacks import noise_log
from lightning_noisy.training.callbacks import run_summary as summary
from lightning_noisy.training.callbacks.noise_log import NoiseLog
from lightning_noisy.training.callbacks.run_files import RunFiles

from ..small import QUIET, OwnModule, loader, small_classifier


class Recording(OwnModule):
    """Keeps what it was trained on."""

    def __init__(self, noise=None):
        super().__init__(noise or NoiseConfig(3, warmup_epochs=1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        inputs, noisy_labels = batch
        logits = self.model(inputs)
        self.seen.append((self.current_epoch, logits.detach().double().numpy(), noisy_labels.numpy()))
        return self.noisy_loss(logits, noisy_labels)


def rows_of(path, name):
    with open(path, encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def cross_entropy(logits, labels):
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_probs[np.arange(len(labels)), labels]


def test_entropy_and_distance_of_rows():
    learned = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    truth = np.eye(3)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(learned * np.log(learned), axis=1).mean()
    assert mean_row_entropy(torch.from_numpy(learned)) == pytest.approx(entropy, rel=1e-12)
    distance = np.mean([0.5 * np.abs(row - true).sum() for row, true in zip(learned, truth, strict=True)])
    assert mean_row_distance(torch.from_numpy(learned), torch.from_numpy(truth)) == pytest.approx(distance, rel=1e-12)
    assert mean_row_entropy(torch.full((5, 5), 0.2)) == pytest.approx(np.log(5))
    assert mean_row_distance(torch.eye(4), torch.eye(4)[[1, 0, 3, 2]]) == 1.0


def test_each_epoch_logs_its_own_clean_loss_and_the_entropy(tmp_path):
    module = Recording()
    logger = CSVLogger(tmp_path, "", "")
    trainer = L.Trainer(max_epochs=3, **{**QUIET, "logger": logger})
    trainer.fit(module, loader(batch_size=24))  # the last batch is smaller
    logged = rows_of(tmp_path / "metrics.csv", "train/loss_clean")
    expected = [
        np.concatenate([cross_entropy(z, y) for epoch, z, y in module.seen if epoch == number]).mean()
        for number in range(3)
    ]
    assert logged == pytest.approx(expected, rel=1e-5)
    learned = module.noise_layer.transition_matrix().double().numpy()
    entropy = -(learned * np.log(learned)).sum(axis=1).mean()
    assert rows_of(tmp_path / "metrics.csv", "noise/entropy")[-1] == pytest.approx(entropy, rel=1e-5)
    assert not rows_of(tmp_path / "metrics.csv", "noise/distance_to_truth")
    assert not rows_of(tmp_path / "metrics.csv", "gpu_memory_gb")


def test_soft_labels_have_a_clean_loss_too():
    module = OwnModule()
    logits, soft = torch.randn(5, 3), torch.rand(5, 3).softmax(1)
    module.noisy_loss(logits, soft)
    shown = module.epoch_counts.so_far()
    loss, images = shown.clean_loss * shown.images, shown.images
    z = logits.double().numpy()
    log_probs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert (loss, images) == (pytest.approx(-(soft.numpy() * log_probs).sum(), rel=1e-5), 5)


def test_plain_cross_entropy_logs_its_loss_and_no_matrix(tmp_path):
    module = OwnModule(None)
    trainer = L.Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, loader())
    assert "train/loss_clean" in trainer.callback_metrics
    assert not {"noise/entropy", "noise/distance_to_truth"} & set(trainer.callback_metrics)


@pytest.mark.parametrize("init", ["confusion", "identity"])
def test_the_distance_of_the_estimate_to_the_true_matrix(photos, init):
    model, data = small_classifier(photos, noise="pair:0.2", init=init)
    trainer = L.Trainer(max_epochs=2, callbacks=[NoiseLog()], **QUIET)  # a user's own comes before the others
    trainer.fit(model, data)
    learned = model.noise_layer.transition_matrix().double().numpy()
    if init == "confusion":
        counts = model.epoch_counts.latest.label_counts.numpy() + 1e-12  # a class that is never predicted: an even row
        learned = counts / counts.sum(axis=1, keepdims=True)
    truth = 0.8 * np.eye(3) + 0.2 * np.roll(np.eye(3), 1, axis=1)
    expected = 0.5 * np.abs(learned - truth).sum(axis=1).mean()
    assert trainer.callback_metrics["noise/distance_to_truth"].item() == pytest.approx(expected, rel=1e-5)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


class Slow(L.Callback):
    """Each training step takes half a second, each validation a hundred."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.clock.now += 0.5

    def on_validation_start(self, trainer, pl_module):
        self.clock.now += 100


def test_images_per_second_leaves_validation_out(monkeypatch, photos):
    clock = Clock()
    monkeypatch.setattr(noise_log, "time", clock)
    model, data = small_classifier(photos)
    trainer = L.Trainer(max_epochs=2, callbacks=[Slow(clock)], val_check_interval=1, **QUIET)
    trainer.fit(model, data)
    images, steps = len(data.splits["train"]), trainer.num_training_batches
    assert trainer.callback_metrics["images_per_second"].item() == pytest.approx(images / (0.5 * steps))


def test_tensorboard_gets_the_pictures(photos, tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard, whose reader gives the values back")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, data = small_classifier(photos)
    trainer = L.Trainer(max_epochs=2, **{**QUIET, "logger": TensorBoardLogger(tmp_path, "", "")})
    trainer.fit(model, data)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"noise/matrix", "noise/label_counts", "training_curves"} <= set(events.Tags()["images"])
    last = events.Scalars("noise/entropy")[-1].value
    assert last == pytest.approx(mean_row_entropy(model.noise_layer.transition_matrix()), rel=1e-5)


class Takes(TensorBoardLogger):
    """A TensorBoard logger without TensorBoard."""

    def __init__(self, folder):
        self.pictures = []
        self.folder = str(folder)

    name = version = ""
    save_dir = log_dir = root_dir = property(lambda self: self.folder)
    experiment = property(lambda self: self)

    def add_image(self, name, pixels, step, dataformats):
        assert (pixels.dtype, pixels.shape[2], dataformats) == (np.uint8, 3, "HWC")
        self.pictures.append((name, step))

    def log_metrics(self, metrics, step=None): ...
    def log_hyperparams(self, params, metrics=None): ...
    def log_graph(self, model): ...
    def save(self): ...
    def finalize(self, status): ...
    def after_save_checkpoint(self, checkpoint_callback): ...


@pytest.mark.parametrize(("interval", "drawn"), [(1, [3, 7, 11]), (2, [7, 11]), (5, [11])])
def test_how_often_the_matrix_is_drawn(tmp_path, interval, drawn):
    logger = Takes(tmp_path)
    trainer = L.Trainer(max_epochs=3, callbacks=[NoiseLog(interval)], **{**QUIET, "logger": logger})
    trainer.fit(OwnModule(), loader())
    assert [step for name, step in logger.pictures if name == "noise/matrix"] == drawn
    assert [step for name, step in logger.pictures if name == "noise/label_counts"] == [11]


def test_many_classes_are_drawn_a_tenth_as_often(tmp_path, monkeypatch):
    monkeypatch.setattr(noise_log, "MANY_CLASSES", 2)
    logger = Takes(tmp_path)
    trainer = L.Trainer(max_epochs=11, **{**QUIET, "logger": logger})
    trainer.fit(OwnModule(), loader())
    assert [step for name, step in logger.pictures if name == "noise/matrix"] == [39, 43]


def test_an_interval_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"`every_n_epochs`.*at least 1.*got 0"):
        NoiseLog(0)


def test_a_picture_that_fails_is_a_warning(tmp_path):
    class Fails(Takes):
        def add_image(self, *args, **kwargs):
            raise OSError("disk full")

    with pytest.warns(UserWarning, match=r"'noise/matrix' could not be logged \(OSError: disk full\)"):
        L.Trainer(max_epochs=1, **{**QUIET, "logger": Fails(tmp_path)}).fit(OwnModule(), loader())


def shown_after(monkeypatch, tmp_path, model, data, **options):
    shown = io.StringIO()
    monkeypatch.setattr(summary, "Console", lambda: Console(file=shown, width=60))
    callbacks = [RunFiles(str(tmp_path / "files")), *options.pop("callbacks", [])]
    trainer = L.Trainer(max_epochs=2, callbacks=callbacks, **{**QUIET, **options, "logger": CSVLogger(tmp_path)})
    trainer.fit(model, data)
    return trainer, shown.getvalue()


def test_the_summary_tells_metrics_time_and_places(photos, tmp_path, monkeypatch):
    model, data = small_classifier(photos)
    options = {"enable_progress_bar": True, "enable_checkpointing": True}
    trainer, shown = shown_after(monkeypatch, tmp_path, model, data, **options)
    assert f"{trainer.callback_metrics['train/loss_clean'].item():.4g}" in shown
    lines = shown.splitlines()
    accuracy, rate = (trainer.callback_metrics[name].item() for name in ("val/accuracy_noisy", "noise/estimated_rate"))
    assert "given labels" in lines[2] and f"{accuracy:.1%}" in lines[2], "what counts comes first"
    assert "wrong" in lines[3] and f"{rate:.1%}" in lines[3]
    assert f"clean model:     {Path('files') / 'clean_model'}" in lines
    checkpoint = Path(trainer.checkpoint_callback.best_model_path).relative_to(tmp_path)
    assert f"last checkpoint: {checkpoint}" in lines
    assert "0:00:" in shown and f"logs:            {Path(trainer.log_dir).relative_to(tmp_path)}" in lines
    # The command line's own checkpoints know their data.
    assert lines[-2] == f"  lightning-noisy audit --ckpt_path {checkpoint} --data.source {photos} --output audit"
    assert lines[-1].startswith(f"  lightning-noisy export --ckpt_path {checkpoint} --output clean --license ")


def test_no_command_is_named_that_the_checkpoint_of_a_module_of_ones_own_would_not_do_for(tmp_path, monkeypatch):
    options = {"enable_progress_bar": True, "enable_checkpointing": True}
    _, shown = shown_after(monkeypatch, tmp_path, OwnModule(), loader(), **options)
    assert "last checkpoint: " in shown and "Next" not in shown


def test_without_a_progress_bar_there_is_no_summary(photos, tmp_path, monkeypatch):
    _, shown = shown_after(monkeypatch, tmp_path, *small_classifier(photos))
    assert shown == ""


@pytest.mark.parametrize(("monitor", "name"), [(None, "last checkpoint"), ("val/loss_noisy", "best checkpoint")])
def test_only_a_checkpoint_that_a_metric_chose_is_called_the_best(monitor, name, photos, tmp_path, monkeypatch):
    keep = ModelCheckpoint(tmp_path / "kept", monitor=monitor)
    options = {"enable_progress_bar": True, "enable_checkpointing": True, "callbacks": [keep]}
    _, shown = shown_after(monkeypatch, tmp_path, *small_classifier(photos), **options)
    assert [row for row in ("last checkpoint", "best checkpoint") if row in shown] == [name]
