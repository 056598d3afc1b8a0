"""Exports of models with a PEFT adapter: merged into a plain model, or kept beside the name of what lies under it."""

import json
import re

import pytest
import timm
import torch
import transformers
from huggingface_hub import ModelCard
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForImageClassification, Trainer, ViTForImageClassification

from lightning_noisy import NoiseConfig, NoisyImageClassifier
from lightning_noisy.audit.judging.model import trained_model
from lightning_noisy.cli.export_commands import run
from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.export.noise_report import noise_of_checkpoint
from lightning_noisy.hf import NoisyForImageClassification
from lightning_noisy.hub import export_clean, push_clean
from tests.hf.small import NAMES, NO_WARMUP, Images, arguments, batch, noisy_vit, saved_timm, tiny_vit

from ..hub.cached_hub import cached_hub  # noqa: F401, a fixture
from .small import train

KEPT = {"README.md", "adapter_config.json", "adapter_model.safetensors", "config.json", "noisy_training.json"}


def lora(**options):
    chosen = {"r": 2, "lora_alpha": 64, "target_modules": ["v_proj", "o_proj"], "modules_to_save": ["classifier"]}
    return LoraConfig(**{"init_lora_weights": False, **chosen, **options})


def inside():
    return NoisyForImageClassification.from_backbone(
        get_peft_model(tiny_vit(), lora()), noise=NO_WARMUP, id2label=NAMES
    )


def logits_of(model, pixels):
    with torch.no_grad():
        output = model.eval()(pixels) if hasattr(model, "pretrained_cfg") else model.eval()(pixel_values=pixels)
    return getattr(output, "logits", output)


@pytest.mark.parametrize("build", [lambda: get_peft_model(noisy_vit(), lora()), inside], ids=["around", "inside"])
def test_an_export_is_merged_and_plain_transformers_loads_it(build, tmp_path):
    model = build()
    pixels, _ = batch()
    expected, unadapted = logits_of(model, pixels), logits_of(tiny_vit(), pixels)
    folder = export_clean(model, tmp_path / "clean", "apache-2.0")
    plain, info = ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    found = logits_of(plain, pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, unadapted, atol=1e-3)
    assert (folder / "noise_layer.safetensors").is_file()
    assert "| adapter | LORA of rank 2, 307 trained parameters with the head |" in (folder / "README.md").read_text()


def test_a_checkpoint_of_the_trainer_is_exported_from_its_folder(tmp_path):
    model = inside().eval()
    model.save_pretrained(tmp_path / "checkpoint")
    folder = export_clean(tmp_path / "checkpoint", tmp_path / "clean", "apache-2.0")
    pixels, _ = batch()
    found = logits_of(ViTForImageClassification.from_pretrained(folder), pixels)
    torch.testing.assert_close(found, logits_of(model, pixels), atol=1e-5, rtol=1e-5)


@pytest.fixture
def base(cached_hub):  # noqa: F811
    """A repository with a network of other classes."""
    tiny_vit(7, seed=5).save_pretrained(cached_hub("me/base"))
    return "me/base"


def trained_around(base, folder, config=None):
    noisy = NoisyForImageClassification.from_backbone(base, noise=NoiseConfig(warmup_epochs=1), id2label=NAMES)
    transformers.set_seed(0)
    model = get_peft_model(noisy, config or lora())
    Trainer(model, arguments(folder, save_strategy="epoch"), train_dataset=Images()).train()
    return model


def test_a_checkpoint_of_an_adapter_around_the_noisy_model_is_a_path_like_others(base, tmp_path):
    model = trained_around(base, tmp_path)
    checkpoint = tmp_path / "checkpoint-12"
    pixels, _ = batch()
    expected = logits_of(model, pixels)
    trained = load_checkpoint(checkpoint)
    torch.testing.assert_close(logits_of(trained.clean_model, pixels), expected, atol=1e-5, rtol=1e-5)
    assert trained.clean_model.state_dict().keys() == tiny_vit().state_dict().keys()
    noisy = model.get_base_model()
    assert torch.equal(trained.noise_layer.weight, noisy.noise_layer.weight)
    assert torch.equal(trained.noise_layer.progress, noisy.noise_layer.progress)
    assert trained.record.label_counts == noisy.run_record.label_counts
    assert trained.record.adapter["trained_parameters"] == 307 and trained.record.base_model == base
    assert noise_of_checkpoint(checkpoint)[1] == list(NAMES.values())
    audited = trained_model(str(checkpoint))
    torch.testing.assert_close(logits_of(audited.clean_model, pixels), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"is a PEFT adapter\. Go on from it by `trainer\.train\(resume"):
        NoisyForImageClassification.from_pretrained(checkpoint)


@pytest.mark.parametrize("kind", ["transformers", "timm"])
def test_a_base_in_a_folder_is_found_and_stays_unnamed(kind, tmp_path, monkeypatch):
    if kind == "timm":
        saved_timm(tmp_path / "base", "test_vit")
    else:
        tiny_vit(7, seed=5).save_pretrained(tmp_path / "base")
    options = {"target_modules": ["qkv"], "modules_to_save": ["head"]} if kind == "timm" else {}
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        model = trained_around("./base", tmp_path / "run", lora(**options))
    pixels, _ = batch()
    folder = export_clean(tmp_path / "run" / "checkpoint-12", tmp_path / "clean", "mit")
    found = AutoModelForImageClassification.from_pretrained(folder)
    torch.testing.assert_close(logits_of(found, pixels), logits_of(model, pixels), atol=1e-5, rtol=1e-5)
    assert str(tmp_path) not in "".join(
        path.read_text() for path in folder.glob("*.*") if path.suffix in (".json", ".md")
    )
    with pytest.raises(ValueError, match=r"which it is\. Name its repository as `base_model`"):
        export_clean(tmp_path / "run" / "checkpoint-12", tmp_path / "kept", "mit", adapter="keep")
    kept = export_clean(model, tmp_path / "kept", "mit", adapter="keep", base_model="me/base")
    dry = push_clean(kept, "me/kept", "mit", dry_run=True)
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json"} < dry.files.keys()
    assert str(tmp_path) not in "".join(
        path.read_text() for path in kept.glob("*.*") if path.suffix in (".json", ".md")
    )


@pytest.mark.parametrize("changed", ["another base", "no base", "no such base", "a part of the adapter"])
def test_a_base_that_is_not_the_trained_one_is_noticed(changed, base, cached_hub, tmp_path):  # noqa: F811
    trained_around(base, tmp_path)
    tiny_vit(7, seed=6).save_pretrained(cached_hub("me/other"))
    checkpoint = tmp_path / "checkpoint-12"
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    new, sentence = {
        "another base": ({"base_model_name_or_path": "me/other"}, "its weights are others than in the training"),
        "no base": ({"base_model_name_or_path": None}, "name the model under the adapter as `base_model_name_or_path`"),
        "no such base": ({"base_model_name_or_path": "me/nothing"}, "'hf:me/nothing' can't be loaded"),
        "a part of the adapter": ({"target_modules": ["v_proj"]}, "does not fit the NoisyForImageClassification"),
    }[changed]
    (checkpoint / "adapter_config.json").write_text(json.dumps({**config, **new}))
    with pytest.raises(ValueError, match=sentence):
        export_clean(checkpoint, tmp_path / "clean", "mit")
    kept = export_clean(tmp_path / "checkpoint-6", tmp_path / "kept", "mit", adapter="keep")
    (kept / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["v_proj", "o_proj"], **new}))
    with pytest.raises(ValueError, match=sentence.replace("NoisyFor", "ViTFor")):
        export_clean(kept, tmp_path / "clean", "mit")
    if changed == "no base":
        export_clean(checkpoint, tmp_path / "clean", "mit", base_model=base)


def paste(folder, monkeypatch, capsys):
    """Runs the code on the card of a folder, in it; returns what it has printed."""
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        capsys.readouterr()
        for snippet in snippets:
            exec(snippet, {})
    return len(snippets), capsys.readouterr().out.split()


@pytest.mark.parametrize("targets", [["v_proj", "o_proj"], r".*layers\.1.*v_proj", ["backbone.vit.layers.0.mlp.fc1"]])
@pytest.mark.parametrize("how", ["model", "path"])
def test_an_adapter_that_is_kept_loads_by_plain_peft(how, targets, base, tmp_path, monkeypatch, capsys):
    model = trained_around(base, tmp_path / "run", lora(target_modules=targets))
    source = model if how == "model" else tmp_path / "run" / "checkpoint-12"
    folder = export_clean(source, tmp_path / "kept", "mit", adapter="keep")
    assert {path.name for path in folder.iterdir()} > KEPT and not (folder / "model.safetensors").exists()
    pixels, _ = batch()
    expected = logits_of(model, pixels)
    config = AutoConfig.from_pretrained(folder)
    plain = AutoModelForImageClassification.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(plain, folder), pixels), expected)
    count, words = paste(folder, monkeypatch, capsys)
    assert count == 2 and words[0] in NAMES.values()
    merged = export_clean(folder, tmp_path / "merged", "mit")
    found = logits_of(ViTForImageClassification.from_pretrained(merged), pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    metadata = ModelCard.load(folder / "README.md").data
    assert (metadata.library_name, metadata.base_model, metadata.base_model_relation) == ("peft", base, "adapter")
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*.json"))


def test_an_adapter_of_a_timm_model_loads_by_plain_timm(cached_hub, tmp_path, monkeypatch, capsys):  # noqa: F811
    saved_timm(cached_hub("me/timm"), "test_vit", patch_size=8)
    options = {"adapter": {"r": 2}, "image_size": 48, "pretrained": True}
    checkpoint = train(tmp_path, "timm:hf-hub:me/timm", epochs=1, **options)
    folder = tmp_path / "kept"
    run(["export", f"--ckpt_path={checkpoint}", f"--output={folder}", "--license=mit", "--adapter=keep"])
    assert "adapter_model.safetensors" in capsys.readouterr().out
    count, said = paste(folder, monkeypatch, capsys)
    on_hub = export_clean(checkpoint, cached_hub("me/kept"), "mit", adapter="keep", repo_id="me/kept")
    assert paste(on_hub, monkeypatch, capsys)[1] == said
    assert count == 2 and "With transformers" not in (folder / "README.md").read_text()
    merged = export_clean(checkpoint, tmp_path / "merged", "mit")
    _, (name, share, *_) = paste(merged, monkeypatch, capsys)
    assert said[0] == name and float(said[1]) == pytest.approx(float(share), abs=1e-5)
    pixels = torch.randn(2, 3, 48, 48)
    expected = logits_of(NoisyImageClassifier.load_from_checkpoint(checkpoint).clean_model(), pixels)
    again = export_clean(folder, tmp_path / "again", "mit")
    plain = timm.create_model(f"local-dir:{again}", pretrained=True)
    torch.testing.assert_close(logits_of(plain, pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("place", ["around", "inside"])
def test_an_adapter_of_a_timm_model_in_transformers(place, cached_hub, tmp_path, monkeypatch, capsys):  # noqa: F811
    saved_timm(cached_hub("me/timm"), "test_vit")
    config = LoHaConfig(r=2, target_modules=["qkv"], modules_to_save=["head"], init_weights=False)
    native = AutoModelForImageClassification.from_pretrained("me/timm", num_labels=3, ignore_mismatched_sizes=True)
    if place == "around":
        model = get_peft_model(NoisyForImageClassification.from_backbone(native, NO_WARMUP, id2label=NAMES), config)
    else:
        model = NoisyForImageClassification.from_backbone(get_peft_model(native, config), NO_WARMUP, id2label=NAMES)
    pixels, _ = batch()
    expected = logits_of(model, pixels)
    folder = export_clean(model, tmp_path / "kept", "mit", adapter="keep", base_model="me/timm")
    assert paste(folder, monkeypatch, capsys)[0] == 2
    trained = load_checkpoint(folder, merge=False)
    torch.testing.assert_close(logits_of(trained.clean_model, pixels), expected)
    merged = timm.create_model(f"local-dir:{export_clean(folder, tmp_path / 'merged', 'mit')}", pretrained=True)
    torch.testing.assert_close(logits_of(merged, pixels), expected, atol=1e-5, rtol=1e-5)


def test_what_can_t_be_kept_is_said(base, tmp_path):
    with pytest.raises(ValueError, match="`adapter` to be 'merge' for a model without an adapter"):
        export_clean(noisy_vit(), tmp_path / "kept", "mit", adapter="keep")
    with pytest.raises(ValueError, match="`adapter` to be 'merge' or 'keep', but got 'both'"):
        export_clean(noisy_vit(), tmp_path / "kept", "mit", adapter="both")
    with pytest.raises(ValueError, match=r"which it is\. Name its repository as `base_model`"):
        export_clean(inside(), tmp_path / "kept", "mit", adapter="keep")
    pissa = get_peft_model(tiny_vit(), lora(init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="it has changed the weights under it"):
        export_clean(pissa, tmp_path / "kept", "mit", adapter="keep", base_model=base)
    assert not (tmp_path / "kept").exists()


HOSTILE = {
    "a module to import": ({"megatron_config": {"tensor_model_parallel_size": 1}, "megatron_core": "harm"}, "'harm'"),
    "a tokenizer with code": (
        {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "me/harm",
         "tokenizer_kwargs": {"trust_remote_code": True}}, "its `peft_type` is 'PROMPT_TUNING'",
    ),
    "other adapters": ({"peft_type": "XLORA", "adapters": {"a": "me/harm"}}, "its `peft_type` is 'XLORA'"),
    "no kind": ({"peft_type": None}, "its `peft_type` is 'None'"),
}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_stranger_s_adapter_runs_nothing(hostile, base, tmp_path, monkeypatch):
    model = trained_around(base, tmp_path / "run")
    folders = [tmp_path / "run" / "checkpoint-12", export_clean(model, tmp_path / "kept", "mit", adapter="keep")]
    (tmp_path / "harm.py").write_text("open('harmed', 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    new, sentence = HOSTILE[hostile]
    for folder in folders:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **new}))
        with pytest.raises(ValueError, match=sentence):
            export_clean(folder, tmp_path / "clean", "mit")
    with pytest.raises(ValueError, match=sentence):
        NoisyForImageClassification.from_backbone(folders[1], id2label=NAMES)
    with pytest.raises(ValueError, match=sentence):
        NoisyImageClassifier(f"hf:{folders[1]}", 3)
    with pytest.raises(ValueError, match="is a PEFT adapter"):
        NoisyForImageClassification.from_pretrained(folders[1])
    assert not (tmp_path / "harmed").exists()
