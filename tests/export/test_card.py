import dataclasses
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lightning_noisy import NoiseConfig
from lightning_noisy.export.card import markdown_text, render_card
from lightning_noisy.export.card_options import CardOptions
from lightning_noisy.export.noise_estimate import estimate_noise
from lightning_noisy.export.trained_model import TrainedModel
from lightning_noisy.noise import NoiseLayer
from lightning_noisy.run_record import RunRecord

from ..hf.small import tiny_vit

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "line\nbreak\r\n---\nlicense: mit",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "`code` $math$ **bold** # head",
    "{{ 7 * 7 }} {% raw %}",
    "\u202ereversed\u200b",
    "x" * 10_000,
    "=1+1",
    "'\"\\",
    "http://evil.example",
    "&lt;img src=x onerror=alert(1)&gt;",
]


def trained(names, **record):
    layer = NoiseLayer(NoiseConfig(len(names), warmup_epochs=0))
    return TrainedModel(tiny_vit(len(names)), list(names), layer, RunRecord(**record))


def card(model, **options):
    estimate = estimate_noise(model.noise_layer, model.record.label_counts, model.class_names)
    return render_card(model, CardOptions(**{"license": "mit", **options}), estimate, "folder")


def rendered(text):
    return MarkdownIt("gfm-like", {"linkify": False}).enable("table").render(text)


@given(st.text() | st.text(alphabet="<>/a&;[]()!`*_|\\\n$#~h:.-1 \u202e", max_size=30))
@settings(max_examples=400)
def test_no_text_of_the_user_s_becomes_markup(text):
    html = rendered(f"before {markdown_text(text)} after")
    assert not re.search(r"<(?!/?p>)", html), html
    cell = rendered(f"| a | b |\n|---|---|\n| {markdown_text(text)} | end |")
    assert cell.count("<td>") == 2, cell
    assert re.sub(r"</?(table|thead|tbody|tr|th|td)>|\n", "", cell).count("<") == 0, cell


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    assert "<" not in markdown_text(text)
    html = rendered(f"- {markdown_text(text)}")
    assert not re.search(r"<(?!/?(ul|li)>)", html), html
    assert len(markdown_text(text)) < 500
    assert not re.search("[\u202e\u200b\n\r]", markdown_text(text))


def test_hostile_names_break_neither_the_metadata_nor_the_page():
    names = [f"{index} {text}" for index, text in enumerate(HOSTILE)]
    count = len(names)
    counts = [[i, i, 9] for i in range(count)] + [[i, (i + 1) % count, 3] for i in range(count)]
    model = trained(
        names,
        label_counts=counts,
        data={"name": HOSTILE[2], "noise": HOSTILE[6]},
        hyperparameters={HOSTILE[1]: HOSTILE[0]},
        metrics={"val/accuracy_clean | <b>": 0.5},
        hardware=HOSTILE[3],
    )
    text = card(model, model_name=HOSTILE[0], description=HOSTILE[2])
    _, metadata, body = text.split("---\n", 2)
    assert yaml.safe_load(metadata)["license"] == "mit"
    assert ModelCard(text).data.model_name == "<script>alert(1)</script>", "in YAML it is only a string"
    html = rendered(body)
    assert "<script" not in html and "javascript:" not in re.sub(r"<(?:td|p|li)>[^<]*", "", html)
    assert set(re.findall(r'<a href="([^"]*)"', html)) == {"https://arxiv.org/abs/1705.03419"}
    assert re.findall(r'<img src="([^"]*)"', html) == ["transition_matrix.png"]
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert all(row.count("<td") in (0, 2, 3, 4) for row in rows)
    assert "49" not in html, "no text of the user's is a template"


def test_the_metadata_is_what_the_hub_indexes():
    model = trained(
        ["ant", "bee"],
        data={"name": "me/insects", "hub_id": "me/insects"},
        metrics={
            "val/accuracy_noisy": 0.5,
            "val/loss_noisy": 1.0,
            "test/accuracy_clean": 0.75,
            "train/accuracy_noisy": 1.0,
        },
    )
    text = card(model, repo_id="me/clean", base_model="google/vit-base-patch16-224-in21k")
    data = ModelCard(text).data
    assert data.license == "mit"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-classification"
    assert data.base_model == "google/vit-base-patch16-224-in21k"
    assert data.datasets == ["me/insects"]
    assert {"noisy-labels", "lightning-noisy", "transformers"} <= set(data.tags)
    assert data.model_name == "clean"
    results = {(found.dataset_split, found.metric_name): found for found in data.eval_results}
    assert results["validation", "accuracy against the given, partly wrong labels"].metric_value == 0.5
    assert results["test", "accuracy against checked labels"].metric_value == 0.75
    assert len(results) == 2
    assert all(found.dataset_type == found.dataset_name == "me/insects" for found in results.values())
    assert 'from_pretrained("me/clean")' in text and "Run this in the folder" not in text


def test_the_noise_is_told_from_the_counts():
    counts = [[0, 0, 90], [0, 1, 10], [1, 1, 60], [1, 0, 40]]
    text = card(trained(["ant", "bee"], label_counts=counts, data={"label_noise_rate": 0.25, "noise": "pair:0.3"}))
    assert "About **25.0%** of the training labels" in text
    assert "In truth 25.0% are" in text and "noise was put on clean labels" in text
    assert "| ant | 130 | 30.8% | 10.0% |" in text, "40 of the 130 labels `ant` are wrong, 10 of its 100 images lost"
    assert "| bee | 70 | 14.3% | 40.0% |" in text
    assert "| bee | ant | 40 | 40.0% |" in text
    assert text.index("| bee | ant | 40") < text.index("| ant | bee | 10")


def test_without_counts_it_is_told_from_the_learned_matrix():
    model = trained(["ant", "bee", "cat"])
    model.noise_layer.reset([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    text = card(model)
    assert "About **10.0%**" in text and "expects more noise than there is" in text
    assert "| ant | 30.0% |" in text and "| ant | bee | 20.0% |" in text


def test_a_class_that_is_never_predicted_says_so():
    text = card(trained(["ant", "bee"], label_counts=[[0, 0, 5], [0, 1, 5]]))
    assert "| bee | 5 | 100.0% | never predicted |" in text


def test_many_classes_are_cut():
    names = [f"class {label}" for label in range(1000)]
    counts = [[label, label, 5] for label in range(1000)] + [[label, 0, 1] for label in range(1, 1000)]
    text = card(trained(names, label_counts=counts))
    assert "and 950 more" in text and "The 20 noisiest of 1000 classes" in text
    assert len(text) < 12_000


def test_two_cards_of_one_model_are_the_same():
    model = trained(["ant", "bee"], label_counts=[[0, 0, 5]])
    assert card(model) == card(model)


def test_the_options_are_checked():
    for field, value in {"license": "", "repo_id": "a/b/c", "datasets": ["../x"], "base_model": "-"}.items():
        with pytest.raises(ValueError, match=f"`{field}`"):
            CardOptions(**{"license": "mit", field: value})
    assert dataclasses.is_dataclass(CardOptions)


def test_a_model_trained_without_a_noise_layer_claims_no_estimate():
    model = dataclasses.replace(trained(["ant", "bee"], label_counts=[[0, 0, 50], [1, 1, 50]]), noise_layer=None)
    text = card(model)
    assert "It was not estimated" in text and "About **" not in text
    assert "bibtex" not in text and "transition matrix describes" not in text
