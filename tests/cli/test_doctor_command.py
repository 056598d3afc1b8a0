import shutil
import subprocess
import sys
from importlib import metadata

import pytest
import torchvision.ops
from packaging.version import Version
from rich.console import Console

from lightning_noisy.cli.doctor_command import run_doctor, tell_checks
from lightning_noisy.first_look import checks

from ..quick import python

pytestmark = pytest.mark.usefixtures("no_wandb_account")


def told(check):
    return {line.name: line for line in check()}


def shown_by(*checks_of_it, width=80):
    console = Console(record=True, width=width, file=open("shown", "w"))  # noqa: SIM115
    problems = tell_checks(console, {check.__name__: check for check in checks_of_it})
    return problems, console.export_text()


def test_versions_are_those_that_are_installed():
    lines = told(checks.check_packages)
    assert all(line.level == "OK" for line in lines.values())
    for name in ("torch", "torchvision", "lightning", "timm", "transformers", "datasets", "wandb"):
        assert Version(lines[name].words) == Version(metadata.version(name))
    assert lines["python"].words == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("version", "level", "words"),
    [
        ("0.9.0", "problem", "0.9.0, but >=1.0.31 is needed"),
        ("1.0.31", "OK", "1.0.31"),
        ("2.0.0.dev1", "OK", "2.0.0.dev1"),
        (None, "problem", "missing, >=1.0.31 is needed"),
    ],
)
def test_a_version_is_compared_with_what_the_package_requires(version, level, words, monkeypatch):
    found = metadata.version

    def other_version(name):
        if name == "timm" and version is None:
            raise metadata.PackageNotFoundError(name)
        return version if name == "timm" else found(name)

    monkeypatch.setattr(metadata, "version", other_version)
    line = told(checks.check_packages)["timm"]
    assert (line.level, line.words) == (level, words)
    assert line.remedy == ("" if level == "OK" else "pip install --upgrade 'timm>=1.0.31'")


def test_an_adapter_package_that_nobody_asked_for_is_not_missed(monkeypatch):
    found = metadata.version

    def without_peft(name):
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", without_peft)
    assert "peft" not in told(checks.check_packages)


def test_torchvision_of_another_torch_is_a_problem(monkeypatch):
    assert told(checks.check_torchvision)["torch with torchvision"].level == "OK"

    def missing(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(torchvision.ops, "nms", missing)
    line = told(checks.check_torchvision)["torch with torchvision"]
    assert line.level == "problem" and "(RuntimeError: operator torchvision::nms does not exist)" in line.words
    assert line.remedy.startswith("pip install")


@pytest.mark.parametrize(("total", "level"), [(64e6, "warning"), (8e9, "OK")])
def test_little_shared_memory_is_a_warning(total, level):
    line = checks.shared_memory(total)
    assert line.level == level and line.words.startswith("64 MB" if level == "warning" else "8.0 GB")
    assert bool(line.remedy) == (level == "warning")


def test_a_folder_without_room_or_rights(tmp_path, monkeypatch):
    assert checks.disk("own cache", tmp_path / "not" / "there").level == "OK"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    assert checks.disk("own cache", tmp_path).level == "warning"
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    line = checks.disk("own cache", tmp_path)
    assert line.level == "problem" and "LIGHTNING_NOISY_CACHE" in line.remedy


def test_keys_are_found_and_never_shown(monkeypatch):
    lines = told(checks.check_accounts)
    assert "no key" in lines["W&B"].words and lines["W&B"].remedy == "To send them, `wandb login`."
    secret = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("HF_TOKEN", f"hf_{secret}")
    problems, text = shown_by(checks.check_accounts)
    assert problems == 0 and "a key is there" in text and "a token is there" in text
    assert secret not in text
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE is offline" in told(checks.check_accounts)["W&B"].words


def test_problems_are_counted_and_paths_stay_whole():
    place = "/" + "a" * 200

    def bad():
        yield checks.Line("problem", "disk", f"{place} [red]is full[/red]", "Make room.")
        yield checks.Line("warning", "GPU", "is old")

    def broken():
        yield checks.Line("OK", "never told", "")
        raise RuntimeError("no such library")

    problems, text = shown_by(bad, broken, width=40)
    assert problems == 2
    assert f"{place} [red]is full[/red]" in text and "→ Make room." in text
    assert "broken" in text and "no such library" in text
    assert text.rstrip().endswith("2 problems and 1 warning.")


def test_a_problem_ends_with_status_one(monkeypatch, capsys):
    monkeypatch.setattr("lightning_noisy.cli.doctor_command.CHECKS", {"x": lambda: iter([checks.Line("OK", "x", "y")])})
    run_doctor([])
    assert capsys.readouterr().out.rstrip().endswith("All is well.")
    line = checks.Line("problem", "x", "y")
    monkeypatch.setattr("lightning_noisy.cli.doctor_command.CHECKS", {"x": lambda: iter([line])})
    with pytest.raises(SystemExit) as ended:
        run_doctor([])
    assert ended.value.code == 1
    with pytest.raises(SystemExit) as ended:
        run_doctor(["--what"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_command_of_the_shell():
    code = "from lightning_noisy.cli.start import console_script; console_script()"
    ran = subprocess.run([python(), "-c", code, "doctor"], capture_output=True, text=True)
    assert ran.returncode in (0, 1) and ran.stderr == ""
    assert "torch with torchvision" in ran.stdout and "cores" in ran.stdout
