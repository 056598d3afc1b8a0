"""benchmarks/gpu_parts.py runs here too, on a tiny network and a CPU, and repeats nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # the imports of processes
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(part, output):
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu_parts.py"),
        part,
        "--device",
        "cpu",
        "--tiny",
        "--output",
        str(output),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout


def test_the_overhead_is_measured_once_and_reported(tmp_path):
    output = tmp_path / "gpu.jsonl"
    assert len(run("overhead", output).splitlines()) == 3
    assert run("overhead", output) == ""
    lines = [json.loads(line) for line in output.open()]
    assert [line["part"] for line in lines] == ["machine", *["overhead"] * 3]
    assert all(line["microseconds"] > 0 for line in lines[1:])
    run("report", output)
    report = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "| noise layer | 10 |" in report


def test_without_a_gpu_the_script_says_so(tmp_path):
    ran = subprocess.run(
        ["bash", str(BENCHMARKS / "gpu.sh")],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "OUT_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 1 and "no CUDA device" in ran.stderr
