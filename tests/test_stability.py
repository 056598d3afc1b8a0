"""The stability benchmark: what it draws, what it counts, and a part of it."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_a_configuration_is_the_same_whenever_it_is_drawn_and_all_kinds_come(benchmark):
    configurations = benchmark("stabilising.configurations")
    drawn = [configurations.draw(number) for number in range(500)]
    assert drawn[7] == configurations.draw(7) and len({str(one) for one in drawn}) == 500
    assert {one.data for one in drawn} == set(configurations.DATA)
    assert {one.trainer for one in drawn} == set(configurations.TRAINERS)
    assert {one.processes for one in drawn} == {1, 2}
    assert sum(not one.is_noisy for one in drawn) > 75


def line(number, method, seed, accuracy, lost=(), **more):
    facts = {"num_classes": 10, "trainer": "loop", "data": "digits", "share": None, "step_backs": None}
    return {"number": number, "method": method, "seed": seed, "accuracy": accuracy, "lost": list(lost), **facts, **more}


def test_harm_is_what_is_below_both_trainings_by_cross_entropy(benchmark):
    report = benchmark("stabilising.report")
    pair = [line(0, "cross-entropy", 0, 0.8, [3]), line(0, "cross-entropy", 1, 0.7)]
    (row,) = report.differences([*pair, line(0, "noise layer", 0, 0.65, [3, 4])], "noise layer")
    assert row["difference"] == pytest.approx(-0.1) and row["below_both"] == pytest.approx(0.05)
    assert row["lost"] == [4], "the third is lost by one of the two as well"
    assert report.summary([row])[5:7] == ["1", "1"]
    (row,) = report.differences([*pair, line(0, "noise layer", 0, 0.69)], "noise layer")
    assert report.summary([row])[5:7] == ["0", "0"]


def test_what_was_harmed_is_trained_again_in_pairs_by_other_seeds(benchmark):
    stability, report = benchmark("stability"), benchmark("stabilising.report")
    pairs = [line(number, "cross-entropy", seed, 0.8) for number in (0, 1) for seed in (0, 1)]
    lines = [*pairs, line(0, "noise layer", 0, 0.7), line(1, "noise layer", 0, 0.79)]
    assert report.harmed_numbers(lines) == [0]
    tasks = stability.further_tasks(2, lines)
    assert sorted(tasks) == [(0, name, seed) for name in ("cross-entropy", "noise layer") for seed in (3, 4)]
    further = [line(0, "cross-entropy", 3, 0.8), line(0, "cross-entropy", 4, 0.7)]
    further += [line(0, "noise layer", 3, 0.75), line(0, "noise layer", 4, 0.72)]
    assert report.further_differences([*lines, *further]) == {0: pytest.approx([-0.05, 0.02])}
    (row,) = report.tables_of_further_seeds([*lines, *further])[-1:]
    assert row == "| 0 | 2 | -0.0150 | 0.0350 | 1 |", "mean, half of their distance, those below -.02"
    assert report.differences([*lines, *further], "noise layer") == report.differences(lines, "noise layer")
    assert report.tables_of_further_seeds(lines) == []


@pytest.mark.slow
def test_a_part_of_it_shows_no_more_harm_than_another_seed(benchmark, tmp_path):
    stability, report = benchmark("stability"), benchmark("stabilising.report")
    output = tmp_path / "stability.jsonl"
    options = ["--data", "digits", "clouds", "--methods", "cross-entropy", "noise layer", "--workers", "1"]
    stability.main([*options, "--configurations", "60", "--output", str(output)])
    lines = [json.loads(text) for text in output.open()]
    numbers = {found["number"] for found in lines}  # public trainers have no third cross-entropy
    assert 3 * len(numbers) < len(lines) < 4 * len(numbers) and len(numbers) > 10
    ours, chance = (report.differences(lines, name) for name in ("noise layer", report.THIRD))
    harmed = [[row["below_both"] > report.HARM for row in rows].count(True) for rows in (ours, chance)]
    assert harmed[0] <= harmed[1] + 1
    noisy = [row["difference"] for row in ours if row["configuration"].is_noisy]
    assert sum(noisy) / len(noisy) > 0.005
    assert output.with_suffix(".png").is_file() and "## trainer: loop" in output.with_suffix(".md").read_text()
    before = output.read_text()
    stability.main([*options, "--configurations", "60", "--output", str(output)])
    assert output.read_text() == before, "nothing is repeated"
