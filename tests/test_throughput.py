"""The benchmark of speed runs, and what it counts is right; how fast anything is, is not for a test to say."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("throughput")


def test_the_operations_of_known_networks(throughput):
    multiply_adds = {"resnet50": 4.09e9, "vit_base_patch16_224": 17.5e9}  # of a forward pass, as published
    for setting in throughput.ON_GPU:
        passes = 3  # the backward pass is two
        expected = 2 * passes * multiply_adds[setting.backbone]
        assert throughput.flops_per_image(setting) == pytest.approx(expected, rel=0.03)


def test_the_peak_of_a_gpu_is_found_by_its_name(throughput):
    peaks = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA L40S": 362e12, "NVIDIA L4": 121e12}
    assert {name: throughput.peak_flops(name) for name in peaks} == peaks
    assert throughput.peak_flops("AMD EPYC, 2 cores") is None


def test_the_arms_take_turns(throughput):
    cells = list(throughput.cells(throughput.ON_CPU, repeats=3))
    assert len(set(cells)) == len(cells) == 3 * 3 * len(throughput.ON_CPU)
    assert {arm for _, _, arm in cells[:: 3 * len(throughput.ON_CPU)]} == set(throughput.ARMS)


@pytest.mark.slow
def test_three_trainings_on_the_same_images(throughput, tmp_path, capsys):
    for _ in range(2):  # the second time there is nothing left to do
        throughput.main(["--quick", "--fused", f"--work-dir={tmp_path}"])
        assert "ours / faster" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "quick.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["lightning-noisy fit", "timm loop", "HF Trainer"]
    for line in lines:
        assert line["images"] == 4 * line["setting"]["batch_size"]
        rounded = 0.0006 / line["seconds"]
        assert line["images_per_second"] == pytest.approx(line["images"] / line["seconds"], rel=0.01 + rounded)
        assert 0 < line["share_waiting_for_data"] < 1
        assert line["peak_memory_mb"] > 100
        assert line["machine"] and line["date"]
