"""W&B without a server: the files of an offline run are read back."""

import csv
import http.server
import os
import threading
import time
import warnings

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from lightning_noisy.training.callbacks.run_files import RunFiles
from lightning_noisy.training.loggers.wandb_logger import NoisyWandbLogger
from lightning_noisy.training.loggers.wandb_runs import _can_ask, recipe_name
from lightning_noisy.training.sharding import ShardedStrategy

from ..small import QUIET, OwnModule, loader, small_classifier
from .wandb_file import finish, read_artifacts, read_config, read_history, read_run, read_table, run_files

KEY = "0" * 40


pytestmark = pytest.mark.usefixtures("no_wandb_account")


class FakeRun:
    """What a server would give."""

    id = "known"

    def __init__(self, resumed, summary=None):
        self.resumed, self.summary, self.logged = resumed, summary or {}, []

    def log(self, metrics):
        self.logged.append(metrics)


def quiet(**options):
    return {**QUIET, "log_every_n_steps": 1, **options}


def csv_rows(path):
    """``{(name, step): value}`` of all numbers."""
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(name, int(row["step"])): float(row[name]) for row in rows for name in row if name != "step" and row[name]}


def wandb_rows(path):
    found = {}
    for row in read_history(path):
        step = row.pop("trainer/global_step")
        numbers = {name: value for name, value in row.items() if not name.startswith("_") and "/_" not in name}
        pictures = ("noise/matrix/", "noise/matrix_table", "noise/label_counts", "training_curves")
        found |= {(name, step): value for name, value in numbers.items() if not name.startswith(pictures)}
    return found


def test_the_file_of_an_offline_run_holds_what_the_csv_file_holds(photos, tmp_path):
    model, data = small_classifier(photos, noise="pair:0.2")
    loggers = [CSVLogger(tmp_path, "", "csv"), NoisyWandbLogger(save_dir=tmp_path, project="tests", name="a run")]
    callbacks = [LearningRateMonitor(), RunFiles(str(tmp_path / "files"))]
    trainer = L.Trainer(max_epochs=2, callbacks=callbacks, **quiet(logger=loggers))
    trainer.fit(model, data)
    assert "WANDB_MODE" not in os.environ
    finish()
    (path,) = run_files(tmp_path)

    expected, found = csv_rows(tmp_path / "csv" / "metrics.csv"), wandb_rows(path)
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(value, rel=1e-6) for key, value in expected.items())
    names = {name for name, _ in found}
    assert {"train/loss", "train/loss_clean", "noise/trace", "noise/entropy", "noise/estimated_rate"} <= names
    assert {"noise/distance_to_truth", "images_per_second", "lr-AdamW/backbone"} <= names

    config = read_config(path)
    assert config["class_names"] == ["ant", "bee", "cat"] and config["noise"]["warmup_epochs"] == 1
    assert config["data"]["train_images"] == len(data.splits["train"]) and config["training"]["batch_size"] == 12
    check_matrices(path, model, trainer)
    check_artifacts(path, tmp_path, data)


def check_matrices(path, model, trainer):
    files = path.parent / "files"
    history = read_history(path)
    tables = [row["noise/matrix_table/path"] for row in history if "noise/matrix_table/path" in row]
    pictures = [row["noise/matrix/filenames"][0] for row in history if "noise/matrix/filenames" in row]
    assert len(tables) == len(pictures) == 2
    columns, rows = read_table(files / tables[-1])
    assert columns == ["class", "ant", "bee", "cat"] and [row[0] for row in rows] == columns[1:]
    learned = model.noise_layer.transition_matrix().numpy()
    assert np.array([row[1:] for row in rows]) == pytest.approx(learned, abs=1e-6)
    assert len(np.unique(np.asarray(Image.open(files / pictures[-1]).convert("L")))) > 5
    (counts,) = [row["noise/label_counts_table/path"] for row in history if "noise/label_counts_table/path" in row]
    counted = np.array([row[1:] for row in read_table(files / counts)[1]])
    assert counted.sum() == len(trainer.datamodule.splits["train"])
    rate = 1 - np.trace(counted) / counted.sum()
    assert rate == pytest.approx(trainer.callback_metrics["noise/estimated_rate"].item(), rel=1e-6)


def check_artifacts(path, tmp_path, data):
    artifacts = {artifact.type: artifact for artifact in read_artifacts(path)}
    model, dataset = artifacts["model"], artifacts["dataset"]
    assert dataset.use_after_commit and not model.use_after_commit, "the data are an input, the model an output"
    assert [entry.path for entry in dataset.manifest.contents] == ["data.json"]
    assert str(tmp_path) not in dataset.metadata + model.metadata
    assert f'"train_images":{len(data.splits["train"])}' in dataset.metadata
    assert '"dataset":"photos"' in model.metadata and '"estimated_noise_rate":' in model.metadata
    names = {entry.path for entry in model.manifest.contents}
    assert names == {file.name for file in (tmp_path / "files" / "clean_model").iterdir()}


def fit(tmp_path, epochs, ckpt_path=None, module=None, strategy="auto", **options):
    logger = NoisyWandbLogger(save_dir=tmp_path, **options)
    trainer = L.Trainer(max_epochs=epochs, devices=1, **quiet(logger=logger, strategy=strategy))
    trainer.fit(module or OwnModule(), loader(), ckpt_path=ckpt_path)
    trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
    finish()
    return logger


@pytest.mark.parametrize("strategy", ["auto", ShardedStrategy])
def test_a_resumed_training_goes_on_in_its_run_and_logs_no_step_twice(strategy, tmp_path, single_process):
    """A sharding strategy reads the checkpoint later than others."""

    def train(**options):
        return fit(tmp_path, strategy=strategy if strategy == "auto" else strategy(), **options)

    first = train(epochs=2)
    second = train(epochs=4, ckpt_path=tmp_path / "2.ckpt")
    assert first.version == second.version
    assert train(epochs=1).version != first.version, "a new training is a new run"
    files = run_files(tmp_path)
    before, after = (wandb_rows(path) for path in files[:2])
    assert [path.name for path in files[:2]] == [f"run-{first.version}.wandb"] * 2
    assert not before.keys() & after.keys()
    assert sorted(step for name, step in before | after if name == "noise/entropy") == [3, 7, 11, 15]
    assert read_run(files[1]).run_id == first.version


def test_what_the_checkpoint_has_is_not_logged_again(tmp_path):
    logger = NoisyWandbLogger(save_dir=tmp_path)
    logger.hold()
    logger.release({"id": "known", "last_steps": {"loss": 5, "epoch": 5}})
    logger.log_metrics({"loss": 1.0, "epoch": 0}, step=5)
    logger.log_metrics({"loss": 2.0, "other": 3.0, "epoch": 0}, step=5)
    logger.log_metrics({"loss": 4.0, "epoch": 1}, step=6)
    assert logger.run_state() == {"id": "known", "last_steps": {"loss": 6, "epoch": 6, "other": 5}}
    finish()
    (path,) = run_files(tmp_path)
    assert wandb_rows(path) == {("other", 5): 3.0, ("loss", 6): 4.0, ("epoch", 6): 1}


def test_an_id_of_the_users_own_is_kept(tmp_path):
    fit(tmp_path, epochs=1)
    assert fit(tmp_path, epochs=2, ckpt_path=tmp_path / "1.ckpt", id="mine").version == "mine"


def test_where_a_key_is_w_and_b_is_asked(tmp_path, monkeypatch):
    assert not _can_ask()
    (tmp_path / "netrc").write_text(f"machine elsewhere.org login user password {KEY}\n")
    assert not _can_ask()
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert _can_ask()
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert _can_ask()
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert _can_ask()


def test_with_a_key_the_mode_is_w_and_bs_own(tmp_path, monkeypatch):
    asked = []
    server = FakeRun(resumed=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options) or server)
    logger = NoisyWandbLogger(save_dir=tmp_path, project="birds", settings=None)  # as the command line makes it
    assert logger.experiment is server
    assert [(options["mode"], options["project"]) for options in asked] == [(None, "birds")]
    assert asked[0]["settings"].init_timeout == 30 and asked[0]["settings"].finish_timeout == 600


def test_steps_that_the_server_has_already_are_not_logged_again(tmp_path, monkeypatch):
    """The run broke off at step 7, after its last checkpoint at step 5."""
    server = FakeRun(resumed=True, summary={"loss": 0.5, "trainer/global_step": 7})
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", lambda **options: server)
    logger = NoisyWandbLogger(save_dir=tmp_path)
    logger.release({"id": "known", "last_steps": {"loss": 5}})
    for step in (6, 7, 8):
        logger.log_metrics({"loss": 1.0}, step)
    assert server.logged == [{"loss": 1.0, "trainer/global_step": 8}]


def test_a_refused_start_goes_offline_with_one_warning(tmp_path, monkeypatch):
    real = wandb.init

    def refuse(**options):
        if options["mode"] != "offline":
            raise wandb.errors.AuthenticationError("the key was refused\nmore")
        return real(**options)

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.warns(UserWarning, match=r"refused the key \(the key was refused\).*`wandb sync wandb") as said:
        fit(tmp_path, epochs=2)
    assert sum("W&B" in str(warning.message) for warning in said) == 1
    assert wandb_rows(run_files(tmp_path)[0])["noise/entropy", 7] > 0


class Refuses(http.server.BaseHTTPRequestHandler):
    """Answers as W&B does to a key that it does not know."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b'{"errors": [{"message": "user is not logged in", "extensions": {"code": "PERMISSION_ERROR"}}]}'
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *args):
        pass


def test_a_key_that_the_server_refuses_is_told_and_the_training_goes_on(tmp_path, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        wandb.teardown()
        with pytest.warns(UserWarning, match=r"W&B refused the key \(.*kept in files.*`wandb login --relogin`") as said:
            fit(tmp_path, epochs=2)
        server.shutdown()
    assert sum("W&B" in str(warning.message) for warning in said) == 1
    assert wandb_rows(run_files(tmp_path)[0])["noise/entropy", 7] > 0


def test_where_not_even_files_can_be_written_the_training_goes_on(tmp_path, monkeypatch):
    def refuse(**options):
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.warns(UserWarning, match=r"logs nothing in this training \(no space left\)") as said:
        fit(tmp_path, epochs=2)
    assert sum("W&B" in str(warning.message) for warning in said) == 1


def test_errors_while_logging_are_one_warning(tmp_path, monkeypatch):
    module = OwnModule()
    logger = NoisyWandbLogger(save_dir=tmp_path)

    def fail(*args, **kwargs):
        raise wandb.Error("the service is gone")

    for name in ("log", "log_artifact"):
        monkeypatch.setattr(wandb.sdk.wandb_run.Run, name, fail)
    with pytest.warns(UserWarning, match=r"continues without it \(Error: the service is gone\)") as said:
        trainer = L.Trainer(max_epochs=2, **quiet(logger=logger))
        trainer.fit(module, loader())
    assert trainer.global_step == 8
    assert sum("W&B" in str(warning.message) for warning in said) == 1


def test_a_server_that_is_down_costs_seconds_and_not_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    wandb.teardown()
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"W&B could not be reached \(.*`wandb sync wandb"):
        fit(tmp_path, epochs=2)
    assert time.monotonic() - start < 45
    assert wandb_rows(run_files(tmp_path)[0])["noise/entropy", 7] > 0


def test_w_and_b_that_is_switched_off_writes_and_says_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    fit(tmp_path, epochs=2)
    assert not run_files(tmp_path) and "W&B" not in "".join(capfd.readouterr())


def test_one_line_says_where_the_run_is(tmp_path, capfd):
    fit(tmp_path, epochs=1, recipe="birds")
    (path,) = run_files(tmp_path)
    folder = path.parent.relative_to(tmp_path)
    said = [line for line in "".join(capfd.readouterr()).splitlines() if "wandb" in line.lower() or "W&B" in line]
    assert said == [f"W&B: the run is kept in files, send it later by `wandb sync {folder}`."]
    run = read_run(path)
    assert run.display_name == f"birds-{run.run_id}" and read_config(path)["recipe"] == "birds"


def test_a_name_of_the_users_own_and_a_project_in_the_environment_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    fit(tmp_path, epochs=1, recipe="birds", name="first try")
    (path,) = run_files(tmp_path)
    assert (read_run(path).display_name, read_run(path).project) == ("first try", "mine")


def test_several_configs_and_the_script_around_them_name_the_recipe(monkeypatch):
    assert recipe_name([]) is None
    assert recipe_name(["recipes/vit_fsdp.yaml"]) == "vit_fsdp"
    monkeypatch.setenv("LIGHTNING_NOISY_RECIPE", "multi_node")
    assert recipe_name(["/a b/resnet50_ddp.yaml", "mine.yml"]) == "multi_node+resnet50_ddp+mine"


def test_uploading_checkpoints_is_off_offline(tmp_path):
    with pytest.warns(UserWarning, match="`log_model` is off"):
        logger = fit(tmp_path, epochs=1, log_model=True)
    assert logger._log_model is False


def test_the_plain_logger_gets_everything_too(photos, tmp_path):
    from lightning.pytorch.loggers import WandbLogger

    model, data = small_classifier(photos)
    logger = WandbLogger(save_dir=tmp_path, mode="offline")
    callbacks = [RunFiles(str(tmp_path / "files"))]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(W&B|could not be logged).*")
        L.Trainer(max_epochs=1, callbacks=callbacks, **quiet(logger=logger)).fit(model, data)
    finish()
    (path,) = run_files(tmp_path)
    assert {"model", "dataset"} <= {artifact.type for artifact in read_artifacts(path)}
    assert torch.isfinite(torch.tensor(wandb_rows(path)["noise/entropy", 2]))
