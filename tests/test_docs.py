"""What the documentation says can be done: its links lead somewhere, its commands are known, its code runs."""

import re
import subprocess
import sys

import pytest
import timm
from PIL import Image
from transformers import HfArgumentParser, TrainingArguments, ViTImageProcessor

import lightning_noisy
import lightning_noisy.hf
import lightning_noisy.hub
from lightning_noisy import LabelAudit
from lightning_noisy.cli import (
    apply_command,
    audit_commands,
    doctor_command,
    export_commands,
    init_command,
    lightning_cli,
)

from .audit.report.chromium import CHROMIUM
from .documents import DOCUMENTS, ROOT, anchors, commands, links, name, python_blocks
from .hf.small import tiny_vit
from .test_recipes import load_script

DOCS = ROOT / "docs"
RUN_CODE = ["audit.md", "coming_from.md", "data.md", "own_module.md", "training.md", "transformers.md"]
REPLACED = {
    "timm:resnet50.a1_in1k": "timm:test_resnet",
    "google/vit-base-patch16-224-in21k": "base",
    "max_epochs=15": "max_epochs=1, accelerator='cpu', logger=False, enable_progress_bar=False",
    "num_train_epochs=15": "num_train_epochs=1, use_cpu=True, report_to='none', disable_tqdm=True, save_strategy='no'",
    '"photos.csv"': '"table.csv"',
    '"relabel"': '"weight"',  # after one epoch a class may be suggested for no image
}
"""Small in the place of large."""

COMMANDS = [list(words) for words in dict.fromkeys(tuple(words) for path in DOCUMENTS for words in commands(path))]


class Parsed(Exception):  # noqa: N818, no error
    """Raised in the place of the work."""


def stop(*args, **kwargs):
    raise Parsed


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_to_a_file_and_a_heading(document):
    for target, anchor in links(document):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{name(document)}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{name(document)}: {target}#{anchor}"


def test_a_dead_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('# One, two\n[a](b.md) [c](d.md#e) [f](#one-two) <img src="g.png">', encoding="utf-8")
    assert links(page) == [("b.md", ""), ("d.md", "e"), ("", "one-two"), ("g.png", "")]
    assert anchors(page) == {"one-two"}


@pytest.mark.filterwarnings("ignore:.*args parameter.*", "ignore::DeprecationWarning")
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_one_that_its_program_knows(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(lightning_cli.NoisyCLI, "instantiate_classes", stop)
    of_the_checkpoint = {
        "data": {"class_path": "lightning_noisy.NoisyImageDataModule", "init_args": {"source": "photos"}}
    }
    monkeypatch.setattr(audit_commands, "_run_config", lambda arguments: of_the_checkpoint)
    monkeypatch.setattr(audit_commands.AuditParser, "instantiate_classes", stop)
    monkeypatch.setattr(apply_command, "LabelAudit", stop)
    monkeypatch.setattr(init_command, "write_recipe", stop)
    monkeypatch.setattr(doctor_command, "tell_checks", stop)
    try:
        _parse(words)
    except SystemExit as error:
        pytest.fail(f"`{' '.join(words)}` is refused ({error.code})")


def _parse(words):
    program, *rest = words
    if program == "lightning-noisy":
        _parse_ours(rest)
    elif "recipes/hf_trainer.py" in words:
        options = words[words.index("recipes/hf_trainer.py") + 1 :]
        parser = HfArgumentParser((load_script(ROOT / "recipes" / "hf_trainer.py").Options, TrainingArguments))
        parser.parse_args_into_dataclasses(options)
    elif any(word.startswith("recipes/") for word in words):  # the rest is what `fit` takes
        script = next(place for place, word in enumerate(words) if word.startswith("recipes/"))
        assert (ROOT / words[script]).is_file(), words[script]
        config = [] if "--config" in words else ["--config", "recipes/imagefolder.yaml"]
        _parse_ours(["fit", *config, *words[script + 1 :]])
    else:
        script = ROOT / next(word for word in words if word.startswith(("benchmarks/", "docs/")))
        source = script.read_text(encoding="utf-8")
        assert all(word in source for word in words if word.startswith("--")), words


def _parse_ours(words):
    command, *options = words
    options = ["recipes/imagefolder.yaml" if option.endswith("config.yaml") else option for option in options]
    if command == "init":
        with pytest.raises(Parsed):
            init_command.run_init(options)
    elif command == "doctor":
        with pytest.raises(Parsed):
            doctor_command.run_doctor(options)
    elif command in ("export", "noise", "push"):
        export_commands._parser(command).parse_args(options)
    elif command == "apply":
        with pytest.raises(Parsed):
            apply_command.run_apply(options)
    elif command in ("audit", "features"):
        with pytest.raises(Parsed):
            audit_commands.run([command, *options], None)
    elif "--print_config" in options:
        with pytest.raises(SystemExit, match="0"):
            lightning_cli.main([command, *options])
    elif command != "COMMAND":
        with pytest.raises(Parsed):
            lightning_cli.main([command, *options])


@pytest.fixture
def small_world(photos, tmp_path, monkeypatch):
    """Where the code of a page runs: photos, a table of them, a base model, a checkpoint, tiny networks."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name},ant,train" for path in sorted(photos.rglob("*.png"))]
    rows[0] = rows[0].replace("train", "test")
    (tmp_path / "table.csv").write_text("path,label,true_label,split\n" + "\n".join(rows), encoding="utf-8")
    tiny_vit(3).save_pretrained(tmp_path / "base")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "base")
    create = timm.create_model

    def create_small(name, pretrained=False, **options):
        is_local = name.startswith("local-dir:")
        return create(name if is_local else "test_resnet", pretrained and is_local, **options)

    monkeypatch.setattr(timm, "create_model", create_small)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUN_CODE)
def test_the_code_of_a_page_runs(page, small_world):
    space: dict = {}
    for block in python_blocks(DOCS / page):
        for large, small in REPLACED.items():
            block = block.replace(large, small)
        if "last.ckpt" in block:
            _train_a_checkpoint()
        exec(block, space)


def _train_a_checkpoint():
    options = ["--data.source=photos", "--data.image_size=32", "--model.backbone=timm:test_resnet"]
    options += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    lightning_cli.main(["fit", "--config", str(ROOT / "recipes" / "imagefolder.yaml"), *options])


def test_every_page_with_code_is_run_here_or_has_a_test_of_its_own():
    with_code = {str(path.relative_to(DOCS)) for path in DOCUMENTS if DOCS in path.parents and python_blocks(path)}
    assert with_code == {*RUN_CODE, "tutorial.md", "your_photos.md"}


@pytest.mark.parametrize("module", [lightning_noisy, lightning_noisy.hf, lightning_noisy.hub], ids=lambda m: m.__name__)
def test_every_public_name_is_in_the_reference(module):
    pages = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    public = {f"::: {module.__name__}.{name}" for name in module.__all__ if not name.startswith("_")}
    assert {line for line in public if f"{line}\n" not in pages} <= {"::: lightning_noisy.hf.NoiseLayerCallback"}


@pytest.fixture(scope="module")
def tools():
    """The scripts behind the documentation."""
    sys.path.insert(0, str(DOCS / "tools"))
    yield load_script
    sys.path.remove(str(DOCS / "tools"))


def test_the_page_of_the_tutorial_is_that_of_the_script(tools):
    page = tools(DOCS / "tools" / "tutorial_page.py")
    text = page.PAGE.read_text(encoding="utf-8")
    for cell in page.cells():
        assert cell.source.strip() in text, "Run `python docs/tools/tutorial_page.py`: tutorial.py has changed."
    pictures = re.findall(r"\(tutorial/(\w+\.png)\)", text)
    assert len(pictures) == 4 and all((page.PICTURES / picture).is_file() for picture in pictures)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs_from_start_to_end_and_shows_what_it_promises(tools, tmp_path):
    page = tools(DOCS / "tools" / "tutorial_page.py")
    shown, space = page.run()
    accuracies = list(space["accuracies"].values())
    assert accuracies[1] > accuracies[0] + 0.1 and accuracies[2] > accuracies[0] + 0.1
    assert space["precision"] > 0.9 and space["recall"] > 0.8
    assert space["left"] < 0.15 < 0.35 < space["is_wrong"].mean()
    assert space["folder"].joinpath("model.safetensors").is_file() and space["name"] in space["CLASSES"]
    page.write_page(shown, tmp_path / "tutorial.md", tmp_path / "tutorial")
    assert len(list((tmp_path / "tutorial").glob("*.png"))) == 4


def test_references_in_docstrings_become_links(tools):
    link = tools(DOCS / "tools" / "docstrings.py")
    text = "Of :class:`~a.b.C`, :meth:`C.do\n    <a.b.C.do>` and ``code``; :data:`LIMIT`."
    assert link.ROLE.sub(link._link, text) == (
        'Of <autoref identifier="a.b.C" optional><code>C</code></autoref>, '
        '<autoref identifier="a.b.C.do" optional><code>C.do</code></autoref> and ``code``; '
        '<autoref identifier="LIMIT" optional><code>LIMIT</code></autoref>.'
    )


def test_files_beside_the_documentation_have_a_page(tools):
    site = tools(DOCS / "tools" / "site.py")
    assert site.site_uri("docs/audit.md") == "audit.md"
    assert site.site_uri("recipes/refine.yaml") == "recipes/refine.yaml.md"
    assert site.site_uri("benchmarks/results/denoise.png") == "benchmarks/results/denoise.png"
    for place in ("docs/audit.md", "recipes/refine.yaml", "benchmarks/results/denoise.md", "docs/tutorial/curves.png"):
        assert site.repository_path(site.site_uri(place)) == place
    assert "recipes/refine.yaml" in site.linked_from("docs/choosing.md")


def test_the_picture_of_the_readme_shows_the_benchmark(tools):
    picture = tools(DOCS / "tools" / "accuracy_picture.py")
    found = picture.read_accuracies()
    assert set(found) == {(kind, method) for kind in picture.KINDS for method in picture.METHODS}
    assert sorted(found["uniform", "noise layer"]) == pytest.approx([0, 0.27, 0.45, 0.63])
    assert sorted(found["pair", "noise layer"]) == [0, 0.2, 0.4]
    lowest = min(sum(seeds) / len(seeds) for shares in found.values() for seeds in shares.values())
    assert lowest == pytest.approx(0.445, abs=0.001)
    assert len(picture.draw(found).axes) == 3


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium` brings one")
def test_the_picture_of_an_audit_shows_what_is_wrong_with_the_scrape(tools, tmp_path):
    picture = tools(DOCS / "tools" / "audit_picture.py")
    (tmp_path / "scrape").mkdir()
    page = picture.audit_page(tmp_path / "scrape")
    found = LabelAudit(page.parent).summary.found.kinds
    assert found["outlier"] >= picture.STRANGERS - 5 and found["low_information"] == picture.BLANK
    picture.take_picture(page, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image, Image.open(picture.PICTURE) as shown:
        assert image.size == shown.size == tuple(picture.SIZE.values())


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_server(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True)
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]* src=\"?(https?:)?//", text), page
        assert not re.search(r"<link[^>]* rel=\"?(stylesheet|preconnect)[^>]* href=\"?(https?:)?//", text), page
        is_reference = "reference" in page.parts
        assert not (is_reference and re.search(":(class|func|meth):`", text)), page
        for target in re.findall(r'href="([^"#:?]+)(?:[#?][^"]*)?"', text):
            assert target.startswith("/") or (page.parent / target).exists(), f"{page}: {target}"
    formulas = (tmp_path / "site" / "mathematics" / "index.html").read_text(encoding="utf-8")
    assert formulas.count("<math") > 40
    assert "$" not in re.sub(r"<script.*?</script>", "", formulas, flags=re.DOTALL)
