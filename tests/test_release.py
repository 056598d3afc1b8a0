"""What a release holds, and that it works where nothing but the wheel is."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from lightning_noisy import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def files_of(package):
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_sdist_and_wheel_hold_all_files_and_are_valid(dist):
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], check=True)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == files_of("lightning_noisy"), "the package and nothing else"
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {*files_of("tests"), *files_of("recipes"), "README.md", "CHANGELOG.md", "LICENSE", "Makefile"}
    assert wanted <= held, wanted - held
    assert __version__ in wheel.name and __version__ in sdist.name


def test_the_wheel_works_where_the_repository_is_not(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        wheel,
    ]
    subprocess.run(install, check=True)
    script = """if True:
        import sys
        import lightning_noisy
        from lightning_noisy.cli.start import console_script
        from lightning_noisy.export.card import markdown_environment
        assert sys.argv.pop(1) in lightning_noisy.__file__
        markdown_environment("lightning_noisy.export").get_template("model_card.md.jinja")
        console_script()
    """
    command = [sys.executable, "-c", script, str(tmp_path / "site"), "--version"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == f"lightning-noisy {__version__}", ran.stderr


def test_version_and_date_are_the_same_everywhere():
    released = re.search(r"^## \[(\S+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (released[1], released[2]) == (citation["version"], str(citation["date-released"]))
    assert released[1] == __version__
