import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule, __version__
from lightning_noisy.cli.lightning_cli import console_script, main
from lightning_noisy.cli.parser import one_sentence
from lightning_noisy.export.card_options import NOISY_MODEL_TYPE
from lightning_noisy.hf import NoisyImageClassificationConfig
from lightning_noisy.hub import export_clean

from .. import quick
from ..audit.made import audit_of

TINY = [
    "--model.backbone=timm:test_vit",
    "--model.pretrained=false",
    "--model.image_size=32",
    "--model.backbone_kwargs={patch_size: 8}",
    "--model.noise.warmup_epochs=1",
    "--data.batch_size=16",
    "--data.num_workers=0",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def logger(directory: Path) -> list[str]:
    return [
        "--trainer.logger=CSVLogger",
        f"--trainer.logger.save_dir={directory}",
        "--trainer.logger.name=",
        "--trainer.logger.version=",
        f"--trainer.default_root_dir={directory}",
    ]


def test_fit_leaves_a_clean_model_a_checkpoint_the_noise_and_its_picture(photos, tmp_path, capsys):
    run = tmp_path / "run"
    main(["fit", f"--data.source={photos}", *TINY, *logger(run)])
    files = ("transition_matrix.csv", "transition_matrix.png", "label_counts.csv", "training_curves.png")
    for name in ("config.yaml", "metrics.csv", *files):
        assert (run / name).stat().st_size > 0, name

    checkpoint = next((run / "checkpoints").glob("*.ckpt"))
    module = NoisyImageClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    clean = timm.create_model(f"local-dir:{run / 'clean_model'}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(clean(images), module.clean_model()(images))
    assert clean.pretrained_cfg["label_names"] == module.class_names == ["ant", "bee", "cat"]
    with open(run / "transition_matrix.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["ant", "bee", "cat"]
    learned = torch.tensor([[float(value) for value in row[1:]] for row in rows[1:]])
    assert torch.allclose(learned, module.noise_layer.transition_matrix(), atol=1e-6)

    metrics, config = (run / "metrics.csv").read_text(), (run / "config.yaml").read_text()
    options = ["--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint)]
    main(["validate", *options])
    assert "val/accuracy_noisy" in capsys.readouterr().out
    main(["test", *options, f"--data.test_source={photos}"])
    assert "test/accuracy_noisy" in capsys.readouterr().out
    main(["predict", *options])
    with open(run / "predictions.csv", encoding="utf-8") as file:
        predictions = list(csv.DictReader(file))
    assert {row["id"] for row in predictions} <= {
        f"{name}/{i:02}.png" for name in module.class_names for i in range(12)
    }
    assert len(predictions) == 33
    assert all(row["id"].startswith(row["given_label"]) and row["predicted_label"] in rows[0] for row in predictions)
    assert (run / "metrics.csv").read_text() == metrics, "a test must not delete what the fit has logged"
    assert (run / "config.yaml").read_text() == config


def test_plain_cross_entropy_is_one_option(tmp_path):
    cli = main(["fit", "--data.source=digits", *TINY[:4], *TINY[5:], "--model.noise=null", *logger(tmp_path / "run")])
    assert cli.model.noise_layer is None
    assert not (tmp_path / "run" / "transition_matrix.csv").exists()
    assert (tmp_path / "run" / "transition_matrix.png").is_file()


def test_print_config_is_a_config_that_can_be_read_back(tmp_path, capsys):
    options = ["--data.source=digits", "--data.noise=pair:0.2", *TINY]
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--model=NoisyImageClassifier", "--data=NoisyImageDataModule", *options, "--print_config"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    config = yaml.safe_load(text)
    assert config["model"]["init_args"]["noise"]["warmup_epochs"] == 1
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--print_config"])
    again = yaml.safe_load(capsys.readouterr().out)
    for shown in (config, again):  # the second time the optimizer's own defaults are written out
        assert "torch.optim.AdamW" in str(shown["model"]["init_args"].pop("optimizer"))
    assert again == config


def test_optimizer_and_scheduler_come_from_the_command_line(tmp_path):
    options = ["--model.optimizer=SGD", "--model.optimizer.lr=0.25", "--model.optimizer.weight_decay=0.125"]
    schedule = ["--model.lr_scheduler=ExponentialLR", "--model.lr_scheduler.gamma=0.5"]
    learned = "--model.noise.init=identity"  # a counted layer takes no gradient steps
    cli = main(["fit", "--data.source=digits", *TINY, learned, *options, *schedule, *logger(tmp_path / "run")])
    groups = {group["name"]: group for group in cli.trainer.optimizers[0].param_groups}
    assert isinstance(cli.trainer.optimizers[0], torch.optim.SGD)
    assert groups["backbone"]["lr"] == pytest.approx(0.25 * 0.5**2)
    assert groups["noise_layer"]["lr"] == pytest.approx(0.25 * 0.5**2)
    assert groups["backbone"]["weight_decay"] == 0.125
    assert groups["noise_layer"]["weight_decay"] == groups["backbone/no_decay"]["weight_decay"] == 0
    loaded = NoisyImageClassifier.load_from_checkpoint(cli.trainer.checkpoint_callback.best_model_path)
    assert loaded.optimizer_factory([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.25


@pytest.mark.slow
def test_resume_goes_on_from_the_last_checkpoint(tmp_path):
    keep = ["--trainer.callbacks=ModelCheckpoint", f"--trainer.callbacks.dirpath={tmp_path}"]
    keep += ["--trainer.callbacks.filename=kept", "--trainer.callbacks.every_n_train_steps=100"]
    options = ["fit", "--data.source=digits", *TINY, *keep, *logger(tmp_path / "run")]
    whole = main(options).model.state_dict()
    resumed = main([*options, f"--ckpt_path={tmp_path / 'kept.ckpt'}"]).model.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole if "accuracies" not in name)


MISTAKES = {
    "source": (["--data.source=nowhere"], "`source`.*'nowhere' does not exist"),
    "backbone": (["--model.backbone=timm:resnet5O"], "`backbone`.*'timm:resnet5O'.*Did you mean 'timm:resnet50'"),
    "noise": (["--data.noise=unifrom:0.1"], "`noise`.*'unifrom:0.1'.*`uniform`"),
    "noise key": (["--model.noise.dropuot=0.1"], "`dropuot`.*Did you mean `dropout`"),
    "noise value": (["--model.noise.dropout=1.5"], r"`dropout`.*\[0,1\).*1.5"),
    "choice": (["--data.on_broken=skp"], "on_broken.*skp"),
    "option": (["--data.batch_sise=3"], "batch_sise"),
    "blocks": (["--model.trainable_blocks=99"], r"`trainable_blocks`.*0\.\.6.*99"),
    "no test images": (["--data.source=PHOTOS"], "no test split.*`test_source`"),
    "strategy": (["--trainer.strategy=dpp"], "strategy='dpp'.*ddp"),
    "strategy of GPUs": (["--trainer.strategy=fsdp"], "`trainer.strategy`.*'fsdp'.*ShardedStrategy"),
    "devices": (["--trainer.devices=0"], "devices='0'"),
    "classes": (["--data.class_names=[ant, bee]", "--data.source=PHOTOS"], "'cat'.*`class_names`"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_ends_in_one_sentence(mistake, photos, tmp_path, monkeypatch, capsys):
    options, message = MISTAKES[mistake]
    options = [option.replace("PHOTOS", str(photos)) for option in options]
    subcommand = "test" if mistake == "no test images" else "fit"
    arguments = [subcommand, "--data.source=digits", *TINY, *logger(tmp_path / "run"), *options]
    monkeypatch.setattr(sys, "argv", ["lightning-noisy", *arguments])
    with pytest.raises(SystemExit) as ended:
        console_script()
    said = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("lightning-noisy: error: ")
    assert "\n" not in said.strip()
    assert re.search(message, said), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("options", [["gpu"], ["cuda", "--trainer.devices=8"]])
def test_a_gpu_that_is_not_there_is_one_sentence(options, monkeypatch):
    with pytest.raises(SystemExit, match=r"^lightning-noisy: error: .*`trainer.accelerator`.*accelerator auto"):
        shell(monkeypatch, "fit", "--data.source=digits", *TINY, "--trainer.accelerator", *options)


def test_one_sentence_finds_the_reason_in_a_list_of_types():
    message = (
        "Does not validate against any of the Union subtypes\nErrors:\n  - Does not validate against any of the Union "
        "subtypes\n    Errors:\n      - Expected argument `dropout` to be small.\n      - Expected a <class 'dict'>\n"
        "Given value: x"
    )
    assert one_sentence(message) == "Expected argument `dropout` to be small."
    assert one_sentence("Just\n  this.") == "Just this."


def quickly(*arguments):
    """As in the shell, without waiting for the imports."""
    environment = {**os.environ, "PATH": quick.path()}
    return subprocess.run(["lightning-noisy", *arguments], env=environment, capture_output=True, text=True)


def test_a_fit_does_not_wait_for_what_an_audit_imports():
    code = "import sys, lightning_noisy.cli.lightning_cli; print(*sys.modules)"
    ran = subprocess.run([quick.plain_python(), "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in ran.stdout.split() if name.startswith("lightning_noisy.")}
    assert "lightning_noisy.training.classifier" in ours
    assert not any(name.startswith(("lightning_noisy.audit", "lightning_noisy.hf")) for name in ours)


def in_shell(*arguments):
    script = Path(sys.executable).with_name("lightning-noisy")
    return subprocess.run([script, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"], ["fitt"]])
def test_all_commands_are_listed_with_what_to_type_first(arguments):
    shown = in_shell(*arguments)
    unknown = arguments == ["fitt"]
    assert shown.returncode == (2 if unknown else 0)
    text = shown.stderr if unknown else shown.stdout
    for command in (
        "init",
        "doctor",
        "fit",
        "validate",
        "test",
        "predict",
        "audit",
        "apply",
        "noise",
        "export",
        "push",
    ):
        assert re.search(rf"^{command} +[A-Z]", text, re.MULTILINE), command
    assert "lightning-noisy init photos/" in text and "lightning-noisy fit --config config.yaml" in text
    if unknown:
        assert text.startswith("lightning-noisy: error: Expected a command, but got 'fitt'. Did you mean `fit`?")


def test_the_list_and_the_version_import_nothing_heavy():
    code = """
import sys
from lightning_noisy.cli.start import console_script
for arguments in (["--version"], []):
    sys.argv = ["lightning-noisy", *arguments]
    console_script()
print(sorted({"torch", "lightning", "transformers", "timm", "datasets", "pyarrow", "numpy"} & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith(f"lightning-noisy {__version__}") and shown.rstrip().endswith("[]")


RUN_AND_TELL_IMPORTS = """
import sys
from lightning_noisy.cli.start import console_script
console_script()
print("imported:", sorted({"lightning", "lightning.pytorch", "torch", "timm", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_apply_of_a_folder_needs_no_lightning(suffix, photos, tmp_path):
    audit_of(tmp_path / "audit", NoisyImageDataModule(str(photos), noise="pair:0.2"))
    output = str(tmp_path / f"cleaned{suffix}")
    arguments = ["apply", "--audit", str(tmp_path / "audit"), "--policy", "relabel", "--output", output]
    shown = subprocess.run(
        [sys.executable, "-c", RUN_AND_TELL_IMPORTS, *arguments], capture_output=True, text=True, check=True
    )
    assert shown.stdout.rstrip().endswith("imported: []") and shown.stderr == ""
    assert len(NoisyImageDataModule(output).splits["train"]) == 33


def test_push_of_a_folder_needs_no_lightning(tmp_path):
    export_clean(timm.create_model("test_resnet", num_classes=3), tmp_path / "clean", "mit")
    arguments = ["push", "--ckpt_path", str(tmp_path / "clean"), "--repo_id", "me/x", "--license", "mit", "--dry_run"]
    shown = subprocess.run(
        [sys.executable, "-c", RUN_AND_TELL_IMPORTS, *arguments], capture_output=True, text=True, check=True
    )
    assert "Nothing was sent" in shown.stdout and "model.safetensors" in shown.stdout
    assert shown.stdout.rstrip().endswith("imported: []") and shown.stderr == ""
    arguments[2] = str(tmp_path / "nowhere")
    failed = quickly(*arguments)
    assert failed.returncode == 1 and re.match("lightning-noisy: error: .*nowhere' does not exist", failed.stderr)


def test_what_an_export_is_told_by_is_the_type_of_a_model_with_a_noise_layer():
    assert NoisyImageClassificationConfig.model_type == NOISY_MODEL_TYPE


def test_a_command_of_lightning_is_still_one():
    shown = quickly("validate", "--help")
    assert shown.returncode == 0 and "--ckpt_path" in shown.stdout


FROM_OTHERS = re.compile(
    "litlogger|litmodels|LeafSpec|logging interval|tensorboardX|to estimate number|dirpath has changed|num_workers|"
    "sync_dist|Loading weights|model shards|already configured|site-packages|Seed set|`max_epochs"
)


@pytest.mark.slow
def test_nothing_of_others_stands_between_a_user_and_the_table_at_the_end(tmp_path):
    options = ["--data.source=digits", *TINY[:9], f"--trainer.default_root_dir={tmp_path}"]
    shown = in_shell("fit", *options)
    assert shown.returncode == 0, shown.stderr
    said = shown.stdout + shown.stderr
    assert not FROM_OTHERS.search(said), said
    lines = shown.stdout.splitlines()
    end = lines[lines.index("After the training") :]
    assert "accuracy on held-out images" in end[2]
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert f"last checkpoint: {checkpoint.relative_to(Path.cwd())}" in end, "on one line"
    assert f"  lightning-noisy audit --ckpt_path {checkpoint.relative_to(Path.cwd())} --output audit" in end
    config = ["--config", str(next(tmp_path.rglob("config.yaml"))), "--ckpt_path", str(checkpoint)]
    for command in ("validate", "predict"):
        shown = in_shell(command, *config)
        assert shown.returncode == 0 and not FROM_OTHERS.search(shown.stdout + shown.stderr), shown.stderr
    (predictions,) = tmp_path.rglob("predictions.csv")
    assert f"The predictions are in {predictions.relative_to(Path.cwd())}" in shown.stderr + shown.stdout


def shell(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-noisy", *map(str, arguments)])
    console_script()


def test_export_and_the_dry_run_of_a_push(photos, tmp_path, monkeypatch, capsys):
    run, clean = tmp_path / "run", tmp_path / "clean"
    main(["fit", f"--data.source={photos}", *TINY, *logger(run)])
    checkpoint = next((run / "checkpoints").glob("*.ckpt"))
    capsys.readouterr()
    options = ["--ckpt_path", checkpoint, "--license", "apache-2.0"]
    metrics = ["--metrics", "{test/accuracy_clean: 0.75}", "--datasets", "[me/insects]", "--model_name", "Insects"]
    shell(monkeypatch, "export", *options, *metrics, "--output", clean)
    shown = capsys.readouterr().out
    assert "model.safetensors" in shown and "transition_matrix.png" in shown and "10 files" in shown
    card = (clean / "README.md").read_text(encoding="utf-8")
    assert "# Insects" in card and "- me/insects" in card and "| test/accuracy\\_clean | 0.75 |" in card
    assert timm.create_model(f"local-dir:{clean}", pretrained=True).num_classes == 3
    shell(monkeypatch, "push", *options, "--repo_id", "me/insects", "--private", "--dry_run")
    shown = capsys.readouterr().out
    assert "Nothing was sent" in shown and "me/insects" in shown and "model.safetensors" in shown
    assert 'timm.create_model("hf-hub:me/insects", pretrained=True)' in shown, "the card, as it would be pushed"

    (tmp_path / "options.yaml").write_text(f"ckpt_path: {checkpoint}\nlicense: mit\noverwrite: true\n")
    shell(monkeypatch, "export", "--config", tmp_path / "options.yaml", "--output", clean)
    assert "license: mit" in (clean / "README.md").read_text(encoding="utf-8")


PUBLISHING_MISTAKES = {
    "no licence": (["export", "--ckpt_path=nowhere", "--output=out"], "`license`.*'apache-2.0'"),
    "no checkpoint": (["export", "--ckpt_path=nowhere", "--output=out", "--license=mit"], "'nowhere' does not exist"),
    "no output": (["export", "--ckpt_path=nowhere", "--license=mit"], "output"),
    "an unknown option": (["push", "--ckpt_path=a", "--repo_id=b", "--licence=mit"], "licence"),
    "a repository": (["push", "--ckpt_path=a", "--repo_id=a b", "--license=mit", "--dry_run"], "`repo_id`.*'me/birds'"),
    "an adapter": (["export", "--ckpt_path=a", "--output=out", "--adapter=both"], "adapter"),
    "metrics": (["export", "--ckpt_path=a", "--output=b", "--metrics={a: high}"], "metrics"),
}


@pytest.mark.parametrize("mistake", list(PUBLISHING_MISTAKES))
def test_a_mistake_in_publishing_ends_in_one_sentence(mistake, tmp_path, monkeypatch, capsys):
    arguments, message = PUBLISHING_MISTAKES[mistake]
    with pytest.raises(SystemExit) as ended:
        shell(monkeypatch, *arguments)
    said = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("lightning-noisy: error: ")
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()


def test_the_help_names_the_commands_that_publish(monkeypatch, capsys):
    for arguments, word in ((["--help"], "lightning-noisy export"), (["push", "--help"], "--dry_run")):
        with pytest.raises(SystemExit) as ended:
            shell(monkeypatch, *arguments)
        assert ended.value.code == 0
        assert word in " ".join(capsys.readouterr().out.split())
