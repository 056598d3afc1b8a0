import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from PIL import Image
from rich.console import Console

from lightning_noisy.cli import init_command
from lightning_noisy.cli.audit_commands import run
from lightning_noisy.cli.init_command import run_init
from lightning_noisy.cli.lightning_cli import main
from lightning_noisy.data.readers.base import Columns
from lightning_noisy.first_look.looking import look_first
from lightning_noisy.first_look.machine import Gpu, Machine
from tests.photos import draw_image

from ..quick import python

pytestmark = pytest.mark.usefixtures("no_wandb_account")
SMALL = ["--model.backbone=timm:test_vit", "--model.backbone_kwargs={patch_size: 8}", "--model.pretrained=false"]
SMALL += ["--model.image_size=32", "--data.image_size=32", "--data.num_workers=0", "--trainer.max_epochs=2"]
MACHINES = {
    "cpu": Machine([], 4, 16 * 10**9),
    "gpu": Machine([Gpu("H200", 140 * 10**9)], 16, 128 * 10**9),
    "old": Machine([Gpu("T4", 8 * 10**9, has_bfloat16=False)], 4, 16 * 10**9),
    "four": Machine([Gpu("A100", 40 * 10**9)] * 4, 32, 256 * 10**9),
}


@pytest.fixture
def on(monkeypatch):
    """Lets ``init`` find another machine."""
    return lambda name: monkeypatch.setattr(init_command, "look_at_machine", lambda: MACHINES[name])


@pytest.fixture
def many(tmp_path):
    """Two classes of 600 images."""
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "many" / name).mkdir(parents=True)
        for number in range(600):
            draw_image(label, number).save(tmp_path / "many" / name / f"{number}.png")
    return tmp_path / "many"


def recipe(path="config.yaml"):
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def as_fit_reads_it(capsys, *options):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "config.yaml", *options, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.slow
def test_the_recipe_trains(photos, capsys, on):
    on("cpu")
    run_init(["photos"])
    shown = capsys.readouterr().out
    assert "lightning-noisy fit --config config.yaml" in shown
    read = as_fit_reads_it(capsys)
    assert read["model"]["init_args"]["trainable_blocks"] == 0
    assert read["data"]["init_args"]["source"] == "photos"
    cli = main(["fit", "--config", "config.yaml", *SMALL])
    assert cli.trainer.current_epoch == 2 and cli.datamodule.num_classes == 3
    assert Path("runs/photos/checkpoints/last.ckpt").is_file()


def test_an_audit_takes_the_recipe(photos, capsys, on):
    on("cpu")
    run_init(["photos"])
    shown = capsys.readouterr().out
    audit = next(line for line in shown.splitlines() if line.startswith("  lightning-noisy audit")).split()[1:]
    audit[audit.index("--backbone") + 1] = "timm:test_resnet"
    run([*audit, "--pretrained=false", "--data.image_size=32", "--trainer.accelerator=cpu"], lambda *_: None)
    assert Path("runs/photos/audit/report.html").is_file()


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("cpu", {"precision": "32-true", "accelerator": None, "devices": None, "accumulate_grad_batches": None}),
        ("gpu", {"precision": "bf16-mixed", "accelerator": "gpu", "devices": 1, "accumulate_grad_batches": None}),
        ("old", {"precision": "16-mixed", "accelerator": "gpu", "devices": 1, "accumulate_grad_batches": 2}),
        ("four", {"precision": "bf16-mixed", "accelerator": "gpu", "devices": 4, "strategy": "ddp"}),
    ],
)
def test_the_recipe_fits_the_machine(machine, expected, many, capsys, on):
    on(machine)
    run_init([str(many)])
    capsys.readouterr()
    config = recipe()
    assert {name: config["trainer"].get(name) for name in expected} == expected
    last = config["trainer"]["callbacks"][-1]["class_path"].rpartition(".")[2]
    assert last == ("FrozenFeatures" if machine == "cpu" else "LabelRefinement")
    assert config["data"]["batch_size"] == (32 if machine == "old" else 64)
    rate = config["model"]["optimizer"]["init_args"]["lr"]
    assert rate == {"cpu": 0.001, "gpu": 0.0005, "old": 0.0005, "four": 0.001}[machine]
    # Lightning refuses a GPU that is not there, and 16 bits without one.
    here = [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.strategy=auto",
        "--trainer.precision=32-true",
    ]
    assert as_fit_reads_it(capsys, *here)["data"]["init_args"]["source"] == str(many)


@pytest.mark.slow
def test_a_recipe_for_a_gpu_trains(many, on):
    on("gpu")
    run_init([str(many)])
    here = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    cli = main(["fit", "--config", "config.yaml", *SMALL, *here, "--data.max_train_images=100"])
    assert cli.trainer.current_epoch == 2


def test_few_images_are_probed_on_a_gpu_too(photos, on):
    on("four")
    run_init([str(photos)])
    config = recipe()
    assert config["model"]["trainable_blocks"] == 0 and config["trainer"]["devices"] == 1
    assert config["data"]["batch_size"] == 8, "of 36 images"
    assert config["model"]["lr_warmup_steps"] == 8, "a tenth of 20 epochs of 4 steps"


def test_what_is_wrong_with_the_data_is_told_and_handled(photos, capsys, on):
    on("cpu")
    (photos / "Ant ").mkdir()
    draw_image(0, 77).save(photos / "Ant " / "x.png")
    (photos / "empty").mkdir()
    (photos / "ant" / "00.png").write_bytes(b"<html>404</html>")
    shutil.copy(photos / "bee" / "00.png", photos / "bee" / "copy.png")
    shutil.copy(photos / "bee" / "01.png", photos / "cat" / "copy.png")
    run_init([str(photos)])
    shown = capsys.readouterr().out
    for words in (
        "the classes 'Ant ', 'ant' are called alike",
        "Class 'empty' has no images",
        "│ can't be decoded           │     1 │",
        "Same file, two labels: bee/01.png is 'bee', cat/copy.png is 'cat'",
        "Copies: 2 images have the same bytes as another one. `lightning-noisy audit`",
        "Sizes: 16 × 16 pixels (median)",
        "Uneven: 'bee' has 13 images, 'Ant ' 1.",
    ):
        assert words in shown
    data = recipe()["data"]
    assert data["on_broken"] == data["on_empty_class"] == "skip" and data["merge_similar_classes"] is True
    text = Path("config.yaml").read_text(encoding="utf-8")
    assert "# 1 can't be read" in text and "# 'Ant ' and 'ant' become one" in text
    cli = main(["fit", "--config", "config.yaml", *SMALL])
    assert cli.datamodule.class_names == ["ant", "bee", "cat"]


NASTY = ["123", "null", "a: b # c", "{x}", "1e3", "*ref", "${HOME}", "[red]x", 'it\'s "so"', "no\nbreak\x85here"]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_breaks_the_file_or_the_terminal(name, photos, capsys, on):
    on("cpu")
    source = photos.rename(name)
    (source / "bee").rename(source / "b\ne: [e]\u2028# x")
    shutil.copytree(source / "ant", source / "ANT\nseed_everything: 7")
    (source / "Ant\nseed_everything: 7").mkdir()
    draw_image(0, 7).save(source / "Ant\nseed_everything: 7" / "x.png")
    run_init([str(source)])
    capsys.readouterr()
    config = recipe()
    assert set(config) == {"seed_everything", "trainer", "model", "data"} and config["seed_everything"] == 0
    assert config["data"]["source"] == name
    if name not in ("1e3", NASTY[-1]):  # jsonargparse prints these two in another way
        assert as_fit_reads_it(capsys)["data"]["init_args"]["source"] == name


def test_no_name_of_the_file_breaks_it(photos, on):
    on("cpu")
    run_init([str(photos), "--output", "a\nseed_everything: 7\n.yaml"])
    assert recipe("a\nseed_everything: 7\n.yaml")["seed_everything"] == 0


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_with_columns_of_its_own(suffix, photos, tmp_path, capsys, on):
    on("cpu")
    rows = [
        {"picture": str(file), "word": file.parent.name, "split": "val" if file.stem == "00" else "train"}
        for file in sorted(photos.rglob("*.png"))
    ]
    path = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    run_init([str(path), "--label_column", "word", "--image_column", "picture", "--output", "other/my.yaml"])
    data = recipe("other/my.yaml")["data"]
    assert (data["label_column"], data["image_column"]) == ("word", "picture") and "val_fraction" not in data
    assert "other/my.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", "--output", "taken.yaml"], "`output`.*'taken.yaml' is there.*`--overwrite`"),
        (["photos", "--output", "config.txt"], "`output`.*ending in .yaml.*'config.txt'"),
        (["nowhere"], "`source`.*'nowhere' does not exist"),
        (["photos", "--output", "taken.yaml/new.yaml"], "can be written, but got: .*taken.yaml"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_lost(arguments, words, photos):
    Path("taken.yaml").write_text("mine")
    with pytest.raises(ValueError, match=words):
        run_init(arguments)
    assert Path("taken.yaml").read_text() == "mine"
    run_init(["photos", "--output", "taken.yaml", "--overwrite"])
    assert "seed_everything" in recipe("taken.yaml")


def test_a_look_ends_in_time_and_says_so(photos, monkeypatch, on, capsys):
    on("cpu")
    look = look_first(str(photos), Columns(), Console(), seconds=0)
    assert look.opened == len(look.sides) == 1 and look.images == 36
    monkeypatch.setattr(init_command, "look_first", lambda *arguments: look)
    run_init([str(photos)])
    assert "Opened were 1 of 36 images" in capsys.readouterr().out


def test_images_in_memory_can_not_be_broken(on, capsys):
    on("cpu")
    run_init(["digits"])
    assert "Opened were" not in capsys.readouterr().out
    assert recipe()["data"] | {"source": "digits", "image_size": 112} == recipe()["data"]


def test_copies_are_those_with_the_same_bytes(tmp_path):
    """By their bytes in a dict; many files have the same length and the same end."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for number in range(30):
                pixels = np.full((8, 8), generator.integers(0, 80), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / label / f"{number}.bmp")
    look = look_first(str(tmp_path / "set"), Columns(), Console())
    contents: dict[bytes, set[str]] = {}
    files = list((tmp_path / "set").rglob("*.bmp"))
    for file in files:
        contents.setdefault(file.read_bytes(), set()).add(file.parts[-3])
    assert look.copies == len(files) - len(contents) > 0
    assert look.in_two_splits == sum(len(splits) == 2 for splits in contents.values())


@pytest.mark.slow
def test_the_command_of_the_shell_says_mistakes_in_one_line(photos):
    code = "from lightning_noisy.cli.start import console_script; console_script()"
    ran = subprocess.run([python(), "-c", code, "init", str(photos)], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stderr == ""
    again = subprocess.run([python(), "-c", code, "init", str(photos)], capture_output=True, text=True)
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "--overwrite" in again.stderr
