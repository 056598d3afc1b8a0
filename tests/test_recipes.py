"""Every recipe runs, on a tiny input."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import timm
import torch
import yaml
from transformers import Dinov2Config, Dinov2ForImageClassification, ViTForImageClassification, ViTImageProcessor

from lightning_noisy import models
from lightning_noisy.audit.judging.refinement import RefinedLabels
from lightning_noisy.cli.lightning_cli import main
from lightning_noisy.hf import NoisyForImageClassification
from tests.data.readers import layouts
from tests.hf.small import tiny_vit
from tests.streaming.shard_files import write_parquet, write_tars
from tests.training.loggers.wandb_file import finish, read_config, read_history, read_only_run, read_run, run_files

from .quick import python
from .recipes import RECIPES, SMALL, TINY

pytestmark = pytest.mark.usefixtures("no_wandb_account")


def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_recipe_says_when_it_is_used_and_stands_in_the_table():
    table = (RECIPES / "README.md").read_text(encoding="utf-8")
    for recipe in RECIPES.glob("*.yaml"):
        header = recipe.read_text(encoding="utf-8").split("\nseed_everything")[0]
        assert all(f"# {word}:" in header for word in ("When", "Needs", "Change")), recipe.name
        assert f"({recipe.name})" in table
        config = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        assert "program" in config or isinstance(config["seed_everything"], int)


def test_the_folder_of_photos(photos, tmp_path):
    tiny = ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--data.image_size=32"]
    cli = main(["fit", "--config", str(RECIPES / "imagefolder.yaml"), f"--data.source={photos}", *tiny, *SMALL])
    folder = tmp_path / "runs" / "imagefolder"
    assert list(folder.rglob("clean_model/model.safetensors"))
    assert cli.trainer.current_epoch == 2
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    longer = [*SMALL, "--trainer.max_epochs=3", "--ckpt_path=last"]
    resumed = main(["fit", "--config", str(RECIPES / "imagefolder.yaml"), f"--data.source={photos}", *tiny, *longer])
    assert resumed.trainer.current_epoch == 3
    assert resumed.trainer.global_step == 3
    read_only_run(folder, "imagefolder")


TINY += ["--data.batch_size=8", "--data.num_workers=0"]


def run_recipe(name, *options):
    return main(["fit", "--config", str(RECIPES / name), *TINY, *SMALL, *options])


def left_files(name):
    """What every recipe with checkpoints leaves behind."""
    folder = Path("runs") / name
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert list(folder.rglob("transition_matrix.csv"))
    read_only_run(folder, name)
    return next(folder.rglob("clean_model/model.safetensors")).parent


def test_refinement_trains_on_what_features_say(photos):
    cli = run_recipe("refine.yaml", f"--data.source={photos}", "--data.image_size=32")
    left_files("refine")
    assert cli.datamodule._datasets["train"].images.soft_labels.shape == (33, 3)
    resumed = run_recipe(
        "refine.yaml", f"--data.source={photos}", "--data.image_size=32", "--trainer.max_epochs=3", "--ckpt_path=last"
    )
    assert resumed.trainer.current_epoch == 3


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_of_scraped_images(suffix, photos):
    files = sorted(photos.rglob("*.png"))
    table = pa.table(
        {
            "url": [f"https://example.com/{file.name}" for file in files],
            "file_name": [file.relative_to(photos).as_posix() for file in files],
            "search_word": [file.parent.name for file in files],
            "checked": [file.parent.name if file.stem == "00" else None for file in files],
        }
    )
    write = pyarrow.csv.write_csv if suffix == ".csv" else pyarrow.parquet.write_table
    write(table, photos / f"photos{suffix}")
    (photos / "ant" / "05.png").write_bytes(b"<html>404</html>")
    columns = ["--data.label_column=search_word", "--data.clean_label_column=checked"]
    with pytest.warns(UserWarning, match="1 of 36 images"):
        cli = run_recipe("manifest.yaml", f"--data.source={photos / f'photos{suffix}'}", *columns)
    assert cli.datamodule.class_names == ["ant", "bee", "cat"]
    assert left_files("manifest").is_dir()


def test_a_linear_probe_leaves_the_features_as_they_are(photos):
    cli = run_recipe("linear_probe.yaml", f"--data.source={photos}")
    trained = {name for name, parameter in cli.model.backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"fc.weight", "fc.bias"}
    assert left_files("linear_probe").is_dir()


def tiny_dinov2():
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 1}
    return Dinov2ForImageClassification(Dinov2Config(image_size=32, patch_size=8, num_labels=3, **size))


@pytest.mark.parametrize("build", [tiny_vit, tiny_dinov2])
def test_a_vit_of_transformers_is_fine_tuned(build, photos, tmp_path):
    build().save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    options = [f"--model.backbone=hf:{tmp_path / 'vit'}", "--model.pretrained=true"]
    cli = run_recipe("vit_finetune.yaml", f"--data.source={photos}", *options)
    rates = {round(group["initial_lr"], 8) for group in cli.trainer.optimizers[0].param_groups}
    assert max(rates) == 0.0005
    assert len(rates) > 3, "they fall from layer to layer, and the noise layer has its own"
    assert cli.trainer.precision == "bf16-mixed"
    assert type(build()).from_pretrained(left_files("vit_finetune")).config.id2label[2] == "cat"


def test_a_vit_is_fine_tuned_by_lora_and_left_merged(photos, tmp_path):
    tiny_vit().save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    options = [f"--model.backbone=hf:{tmp_path / 'vit'}", "--model.pretrained=true", "--model.adapter.r=2"]
    cli = run_recipe("vit_lora.yaml", f"--data.source={photos}", *options)
    trained = {name for name, parameter in cli.model.backbone.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name or "classifier" in name for name in trained)
    assert cli.model.hparams["adapter"]["r"] == 2
    plain, info = ViTForImageClassification.from_pretrained(left_files("vit_lora"), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    images = torch.randn(2, 3, 32, 32)
    expected = cli.model.eval().float()(images)
    torch.testing.assert_close(plain.eval()(images).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_a_stream_of_shards(write, photos, tmp_path):
    write(tmp_path / "shards", [9, 4, 14, 6])
    val = photos if write is write_parquet else write_tars(tmp_path / "val", [5, 2])
    options = [f"--data.val_source={val}"]
    cli = run_recipe("streaming_web.yaml", *options)
    assert cli.datamodule.class_names == (["ant", "bee", "cat"] if write is write_parquet else ["0", "1", "2"])
    assert cli.trainer.global_step == 2 * 5
    assert "val/accuracy_noisy" in cli.trainer.callback_metrics
    record = torch.load("runs/streaming_web/checkpoints/last.ckpt", weights_only=True)["noisy_run"]
    assert (record["data"]["name"], record["data"]["train_images"], record["epochs"]) == ("shards", 33, 2)
    assert sum(count for *_, count in record["label_counts"]) == 33, "fillers are not counted"
    assert left_files("streaming_web").is_dir()
    longer = run_recipe("streaming_web.yaml", *options, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert longer.trainer.global_step == 3 * 5


PUBLISHED = {
    "clothing1m": (layouts.clothing1m, 3, "test"),
    "food101n": (layouts.food101n, 3, "test"),
    "webvision": (lambda root: layouts.webvision(root, num_classes=52, each=1), 50, "validate"),
    "animal10n": (lambda root: layouts.animal10n(root, each=6), 10, "test"),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_published_data_set(name, tmp_path):
    make, num_classes, evaluation = PUBLISHED[name]
    config = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    kind, _, folder = config["data"]["source"].partition(":")
    assert kind.endswith(name)
    make(tmp_path / folder)
    if "test_source" in config["data"]:
        layouts.food101(tmp_path / config["data"]["test_source"].removeprefix("food101:"))
    cli = run_recipe(f"{name}.yaml")
    assert cli.model.num_classes == num_classes
    clean = timm.create_model(f"local-dir:{left_files(name)}", pretrained=True).eval()
    assert clean.num_classes == num_classes
    metrics = getattr(cli.trainer, evaluation)(cli.model, cli.datamodule, verbose=False)[0]
    split = evaluation.removesuffix("idate")
    batches = list(getattr(cli.datamodule, f"{split}_dataloader")())
    with torch.no_grad():
        is_right = torch.cat([clean(batch.images).argmax(dim=1) == batch.clean_labels for batch in batches])
    assert metrics[f"{split}/accuracy_clean"] == pytest.approx(is_right.float().mean().item())


TINY_VIT = ["--model.backbone=timm:test_vit", "--model.backbone_kwargs={patch_size: 8}"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), [("resnet50_ddp", []), ("vit_fsdp", TINY_VIT)])
def test_two_processes_of_one_machine(name, backbone, photos, tmp_path):
    (tmp_path / "script.py").write_text("from lightning_noisy.cli import console_script\n\nconsole_script()\n")
    options = [f"--data.source={photos}", *backbone]  # the progress bar is on: it once made the processes wait forever
    recipe = str(RECIPES / f"{name}.yaml")
    ran = subprocess.run(
        [sys.executable, "script.py", "fit", "--config", recipe, *TINY, *SMALL, *options, "--trainer.devices=2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "MEMBER: 2/2" in Path("runs", name, "logs", "rank_1.log").read_text(encoding="utf-8")
    assert left_files(name).is_dir()
    assert len(run_files(Path("runs", name))) == 1
    alone = ["--trainer.max_epochs=3", "--trainer.devices=1", "--trainer.strategy=auto", "--ckpt_path=last"]
    assert run_recipe(f"{name}.yaml", *options, *alone).trainer.current_epoch == 3
    assert len(read_only_run(Path("runs", name), name)) == 2, "the second part has a file of its own, of the same run"


def sweep_command(choose):
    """What a W&B agent runs; ``choose`` picks one of a parameter's values."""
    sweep = yaml.safe_load((RECIPES / "sweep.yaml").read_text(encoding="utf-8"))
    args = [f"--{name}={choose(parameter)}" for name, parameter in sweep["parameters"].items()]
    parts = [{"${program}": [sweep["program"]], "${args}": args}.get(part, [part]) for part in sweep["command"]]
    command = [part for group in parts for part in group]
    assert command[0] == "lightning-noisy"
    return [part.replace("=recipes/", f"={RECIPES}/") for part in command[1:]]


def test_the_sweep_runs_a_command_that_the_program_knows(photos, capsys):
    for choose in (
        lambda p: p.get("value", p.get("min", p.get("values", [0])[0])),
        lambda p: p.get("value", p.get("max", p.get("values", [0])[-1])),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*sweep_command(choose), "--print_config"])
        assert ended.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        classes = [logger["class_path"].rpartition(".")[2] for logger in config["trainer"]["logger"]]
        assert classes == ["NoisyCSVLogger", "NoisyWandbLogger"]
        settings = config["model"]["init_args"]
        assert settings["noise"]["dropout"] in (0.0, 0.5) and settings["noise"]["warmup_epochs"] in (2, 5)
        assert settings["optimizer"]["init_args"]["lr"] in (0.00003, 0.001)
        assert settings["optimizer"]["init_args"]["weight_decay"] == 0.05


RECIPES_THAT_LOG = [name.stem for name in RECIPES.glob("*.yaml") if name.stem not in ("demo", "sweep")]


@pytest.mark.parametrize("name", RECIPES_THAT_LOG)
def test_every_recipe_writes_to_csv_and_to_w_and_b(name):
    loggers = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))["trainer"]["logger"]
    assert [logger["class_path"].rpartition(".")[2] for logger in loggers] == ["NoisyCSVLogger", "NoisyWandbLogger"]
    assert {logger["init_args"]["save_dir"] for logger in loggers} == {f"runs/{name}"}


HF_SMALL = ["--num_train_epochs=2", "--per_device_train_batch_size=8", "--use_cpu=true"]
HF_SMALL += ["--warmup_epochs_of_noise=1", "--license=mit", "--disable_tqdm=true", "--save_strategy=epoch"]


@pytest.fixture
def tiny_backbone(tmp_path):
    model = models.build_backbone("timm:test_resnet", 5, pretrained=False, image_size=32)
    models.save_backbone(model, tmp_path / "base", list("abcde"))
    return str(tmp_path / "base")


def hf_trainer(photos, tiny_backbone, tmp_path):
    return [f"--data={photos}", f"--backbone={tiny_backbone}", f"--output_dir={tmp_path / 'run'}", *HF_SMALL]


def read_run_of_transformers(folder, parts):
    finish()
    files = run_files(folder)
    (run_id,) = {read_run(path).run_id for path in files}
    assert len(files) == parts and read_config(files[-1])["recipe"] == "hf_trainer"
    assert (read_run(files[0]).display_name, read_run(files[0]).project) == (f"hf_trainer-{run_id}", "lightning-noisy")
    assert any("test/accuracy_noisy" in row for row in read_history(files[-1]))


def test_the_plain_transformers_trainer(photos, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    arguments = hf_trainer(photos, tiny_backbone, tmp_path)
    script = load_script(RECIPES / "hf_trainer.py")
    arguments.append("--logging_steps=1")
    metrics = script.run(arguments)
    right = metrics["test_accuracy_noisy"] * metrics["test_samples_per_second"] * metrics["test_runtime"]
    assert right == pytest.approx(round(right), abs=0.05), "a whole number of images"
    clean = timm.create_model(f"local-dir:{tmp_path / 'run' / 'clean'}", pretrained=True)
    assert clean.pretrained_cfg["label_names"] == ["ant", "bee", "cat"]
    script.run([*arguments, "--num_train_epochs=3", "--resume_from_checkpoint=true"])
    states = [json.loads(file.read_text()) for file in (tmp_path / "run").glob("checkpoint-*/trainer_state.json")]
    state = max(states, key=lambda state: state["global_step"])
    assert state["epoch"] == 3
    rows = pyarrow.csv.read_csv(tmp_path / "run" / "metrics.csv").to_pylist()
    steps = [row["step"] for row in rows if row["loss"] is not None]
    assert steps == list(range(1, state["max_steps"] + 1)), "each once, those before the resume too"
    read_run_of_transformers(tmp_path / "run", parts=2)
    evaluated = [entry for entry in state["log_history"] if "eval_accuracy_noisy" in entry]
    assert [entry["epoch"] for entry in evaluated] == [1, 2, 3]
    for word in ("When:", "Needs:", "Change:"):
        assert word in script.__doc__


def test_without_images_for_a_validation_the_transformers_script_evaluates_none(
    photos, tiny_backbone, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    script = load_script(RECIPES / "hf_trainer.py")
    script.run([*hf_trainer(photos, tiny_backbone, tmp_path), "--validation_share=0", "--max_steps=1"])
    assert "no split `validation` and --validation_share is 0" in capsys.readouterr().out
    rows = pyarrow.csv.read_csv(tmp_path / "run" / "metrics.csv").column_names
    assert "train_loss" in rows and not [name for name in rows if name.startswith("eval")]


def test_the_transformers_script_refines(photos, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    script, seen = load_script(RECIPES / "hf_trainer.py"), []

    def refine_labels(model, dataset):
        seen.extend(row["labels"] for row in dataset)
        return RefinedLabels(torch.eye(3)[[(label + 1) % 3 for label in seen]], 1.0, "")

    monkeypatch.setattr(script, "refine_labels", refine_labels)
    forward, trained = NoisyForImageClassification.forward, []

    def look(self, pixel_values=None, labels=None, soft_targets=None, **kwargs):
        if self.training:
            trained.append((labels, soft_targets))
        return forward(self, pixel_values, labels, soft_targets=soft_targets, **kwargs)

    monkeypatch.setattr(NoisyForImageClassification, "forward", look)
    script.run([*hf_trainer(photos, tiny_backbone, tmp_path), "--refine", "--max_steps=2"])
    labels, soft = (torch.cat(part) for part in zip(*trained, strict=True))
    assert torch.equal(soft.argmax(dim=1), (labels + 1) % 3) and len(seen) >= len(labels)


@pytest.mark.slow
def test_the_transformers_script_under_torchrun(photos, tiny_backbone, tmp_path):
    command = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ran = subprocess.run(
        [*command, str(RECIPES / "hf_trainer.py"), *hf_trainer(photos, tiny_backbone, tmp_path)],
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    read_run_of_transformers(tmp_path / "run", parts=1)
    assert "hardware | 2 × cpu" in (tmp_path / "run" / "clean" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_pretrained_backbone_on_human_label_noise(shared_data, tmp_path):
    prepare = load_script(RECIPES.parent / "benchmarks" / "prepare_data.py")
    (tmp_path / "data").mkdir()
    for name, file in prepare.FILES.items():
        dataset = prepare.to_dataset(shared_data / file).select(range(1500 if "train" in name else 200))
        dataset.to_parquet(tmp_path / "data" / f"{name}.parquet")
    weights = "mobilenetv2_035.imagenet.features.safetensors"
    (tmp_path / "data" / weights).symlink_to(shared_data / weights)
    options = [
        "--data.max_train_images=1000",
        "--data.num_workers=0",
        "--data.batch_size=50",
        "--model.lr_warmup_steps=5",
        "--model.noise.warmup_epochs=3",
    ]
    cli = main(["fit", "--config", str(RECIPES / "cifar10n.yaml"), *SMALL, *options, "--trainer.max_epochs=4"])
    assert cli.datamodule.class_names[:2] == ["airplane", "automobile"]
    assert cli.datamodule.label_noise_rate == pytest.approx(0.4, abs=0.06)
    accuracy = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]["test/accuracy_clean"]
    assert accuracy > 0.3, "three times chance after 80 steps: the pretrained weights are in"


@pytest.mark.slow
def test_the_demo_compares_both_losses_and_leaves_its_files(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    load_script(RECIPES / "demo.py").run(["--trainer.max_epochs=2"])
    shown = capsys.readouterr().out
    assert "GPU available" in caplog.text and "stepping batches" not in caplog.text, "nothing that is of no use"
    assert "plain cross-entropy" in shown
    assert "46.2% of the training labels are wrong" in " ".join(shown.split())
    for name in ("last.ckpt", "metrics.csv", "transition_matrix.png", "transition_matrix.csv", "clean_model"):
        assert (tmp_path / "runs" / "demo" / name).exists(), name
    checkpoint = torch.load(tmp_path / "runs" / "demo" / "last.ckpt", weights_only=True)
    assert "noise_layer.weight" in checkpoint["state_dict"]
