import json
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.hf import NoisyForImageClassification, NoisyImageClassificationConfig

from ..quick import plain_python
from .small import NAMES, NO_WARMUP, STOCHASTIC, batch, noisy_vit, saved_timm, tiny_vit


def shaken(model, seed=1):
    """The model with a noise matrix that is not its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.noise_layer.weight += torch.randn(model.noise_layer.weight.shape, generator=generator)
    return model


def noisy_timm(folder, noise=NO_WARMUP, **kwargs):
    return NoisyForImageClassification.from_backbone(saved_timm(folder, **kwargs), noise=noise, id2label=NAMES)


def test_the_training_loss_is_the_paper_s_formula_and_the_evaluation_loss_is_clean():
    model = shaken(noisy_vit())
    images, labels = batch()
    out = model.train()(images, labels=labels)
    weight = model.noise_layer.weight.double()
    noisy = (out.logits.double().softmax(1) @ weight.T).softmax(1)
    assert out.loss.item() == pytest.approx(-noisy[range(4), labels].log().mean().item(), rel=1e-5)
    torch.testing.assert_close(out.noisy_log_probs.double(), noisy.log(), rtol=1e-5, atol=1e-5)
    out = model.eval()(images, labels=labels)
    assert out.loss.item() == pytest.approx(F.cross_entropy(out.logits, labels).item(), rel=1e-6)
    assert torch.equal(out.logits, model.backbone(images).logits), "logits are the backbone's own"


def test_the_loss_and_the_log_probabilities_share_one_dropout_mask():
    model = noisy_vit(NoiseConfig(warmup_epochs=0, dropout=0.5)).train()
    images, labels = batch()
    out = model(images, labels=labels)
    assert out.loss.item() == pytest.approx(F.nll_loss(out.noisy_log_probs, labels).item(), rel=1e-6)


def test_without_labels_there_is_no_loss_and_a_tuple_where_asked_for():
    model = noisy_vit().eval()
    images, labels = batch()
    assert list(model(images)) == ["logits"]
    loss, logits, noisy_log_probs = model(images, labels=labels, return_dict=False)
    assert loss.ndim == 0 and logits.shape == noisy_log_probs.shape == (4, 3)
    assert model(images, output_hidden_states=True).hidden_states is not None


@pytest.mark.parametrize("noise", [NO_WARMUP, STOCHASTIC])
@pytest.mark.parametrize("kind", ["vit", "test_resnet", "test_vit"])
def test_a_saved_model_comes_back_to_the_bit_through_the_auto_class(kind, noise, tmp_path):
    model = noisy_vit(noise) if kind == "vit" else noisy_timm(tmp_path / "base", noise, name=kind)
    shaken(model.eval()).save_pretrained(tmp_path / "saved")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, NoisyForImageClassification)
    assert not loaded.training
    images, _ = batch()
    assert torch.equal(loaded.noise_layer.weight, model.noise_layer.weight)
    torch.testing.assert_close(loaded(images).logits, model(images).logits, rtol=0, atol=1e-6)
    assert loaded.config.noise_config == noise.with_num_classes(3)
    assert loaded.config.id2label == NAMES
    assert loaded.config.label2id == {"ant": 0, "bee": 1, "cat": 2}
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize("noise", [NO_WARMUP, STOCHASTIC])
def test_a_checkpoint_without_a_noise_layer_gets_the_start_that_its_config_describes(noise, tmp_path):
    model = noisy_vit(noise)
    start = model.noise_layer.weight.clone()
    shaken(model).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["noise_layer.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = NoisyForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.noise_layer.weight, start)


def test_a_model_without_a_noise_layer_is_plain_cross_entropy(tmp_path):
    model = noisy_vit(None).train()
    images, labels = batch()
    out = model(images, labels=labels)
    assert out.noisy_log_probs is None
    assert out.loss.item() == pytest.approx(F.cross_entropy(out.logits, labels).item())
    model.save_pretrained(tmp_path)
    assert NoisyForImageClassification.from_pretrained(tmp_path).noise_layer is None
    with pytest.raises(ValueError, match="noise layer"):
        model.transition_matrix()


@pytest.mark.parametrize("init", ["identity", "confusion"])
def test_a_layer_that_follows_counts_takes_no_gradients_after_loading_either(init, tmp_path):
    model = noisy_vit(NoiseConfig(warmup_epochs=0, init=init))
    model.save_pretrained(tmp_path)
    loaded = NoisyForImageClassification.from_pretrained(tmp_path)
    trained = [one.noise_layer.weight.requires_grad for one in (model, loaded)]
    assert trained == [init == "identity"] * 2


def test_half_precision_leaves_the_noise_layer_in_float32(tmp_path):
    model = shaken(noisy_vit(NoiseConfig(warmup_epochs=0, dropout=0.0, init="identity")))
    model.save_pretrained(tmp_path)
    assert NoisyForImageClassification.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    loaded = NoisyForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.noise_layer.weight.dtype == torch.float32
    assert torch.equal(loaded.noise_layer.weight, model.noise_layer.weight)
    images, labels = batch()
    out = loaded.train()(images.bfloat16(), labels=labels)
    assert out.logits.dtype == torch.bfloat16
    assert out.loss.dtype == out.noisy_log_probs.dtype == torch.float32
    out.loss.backward()
    assert loaded.noise_layer.weight.grad.abs().sum() > 0
    loaded.save_pretrained(tmp_path / "half")
    again = NoisyForImageClassification.from_pretrained(tmp_path / "half")
    assert torch.equal(again.noise_layer.weight, model.noise_layer.weight)
    moved = noisy_vit().bfloat16()
    assert moved.noise_layer.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_from_backbone_in_half_precision(name, tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    model = NoisyForImageClassification.from_backbone(tmp_path, **{name: torch.bfloat16})
    assert model.backbone.dtype == torch.bfloat16
    assert model.noise_layer.weight.dtype == torch.float32


def test_a_device_map_spreads_the_blocks(tmp_path):
    model = noisy_vit()
    model.save_pretrained(tmp_path / "vit")
    mapped = NoisyForImageClassification.from_pretrained(tmp_path / "vit", device_map={"": "cpu"})
    images, _ = batch()
    assert torch.equal(mapped(images).logits, model.eval()(images).logits)
    assert mapped._no_split_modules == {"ViTLayer", "ViTEmbeddings"}
    offloaded = NoisyForImageClassification.from_pretrained(
        tmp_path / "vit",
        device_map={"backbone.vit": "disk", "backbone.classifier": "cpu", "noise_layer": "cpu"},
        offload_folder=str(tmp_path / "offload"),
    )
    assert torch.equal(offloaded(images).logits, model(images).logits)
    names = {name: noisy_timm(tmp_path / name, name=name)._no_split_modules for name in ("test_resnet", "test_vit")}
    assert names == {"test_resnet": ["BasicBlock", "Bottleneck"], "test_vit": ["Block"]}


@pytest.mark.parametrize("kind", ["vit", "test_vit"])
def test_gradient_checkpointing_gives_the_same_gradients(kind, tmp_path):
    model = noisy_vit() if kind == "vit" else noisy_timm(tmp_path, name=kind)
    assert model.supports_gradient_checkpointing
    images, labels = batch()
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        model._set_gradient_checkpointing(enable=False)
        if enable:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()(images, labels=labels).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-4, atol=1e-6)
    assert len(gradients[0]) > 3


def test_the_pipeline_finds_the_processor_and_gives_clean_scores(tmp_path):
    vit = tiny_vit()
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1] * 3, image_std=[0.4] * 3)
    vit.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model = NoisyForImageClassification.from_backbone(tmp_path / "base", id2label=NAMES)
    shaken(model).save_pretrained(tmp_path / "saved")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = pipeline("image-classification", model=str(tmp_path / "saved"))(image)
    inputs = AutoImageProcessor.from_pretrained(tmp_path / "base")(image, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval().backbone(**inputs).logits.softmax(1)[0]
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(
        {NAMES[label]: expected[label].item() for label in NAMES}, abs=1e-5
    )


def test_the_processor_of_a_timm_backbone_is_timm_s_own(tmp_path):
    noisy_timm(tmp_path / "base").save_pretrained(tmp_path / "saved")
    saved, base = (AutoImageProcessor.from_pretrained(tmp_path / name) for name in ("saved", "base"))
    assert saved.data_config == base.data_config
    assert saved.data_config["input_size"] == (3, 32, 32)


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_strip_gives_the_native_model_alone(kind, tmp_path):
    model = noisy_vit() if kind == "vit" else noisy_timm(tmp_path / "base")
    model.train()
    clean = model.strip()
    assert type(clean) is (ViTForImageClassification if kind == "vit" else TimmWrapperForImageClassification)
    assert not clean.training and model.training
    images, _ = batch()
    torch.testing.assert_close(clean(images).logits, model.eval()(images).logits, rtol=0, atol=1e-6)
    assert clean.config.id2label == NAMES
    clean.save_pretrained(tmp_path / "clean")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "clean")
    assert type(loaded) is type(clean)
    torch.testing.assert_close(loaded(images).logits, clean(images).logits, rtol=0, atol=1e-6)
    for parameter in clean.parameters():
        parameter.data.zero_()
    assert model(images).logits.abs().sum() > 0, "a copy: what is done to it leaves the training model alone"


def test_the_warm_up_is_plain_cross_entropy_with_the_layer_in_the_graph():
    model = noisy_vit(NoiseConfig(warmup_epochs=2, init="identity", class_balance=0.0)).train()
    images, labels = batch()
    model.set_epoch(0)
    model(images, labels=labels)
    model.set_epoch(1)
    out = model(images, labels=labels)
    assert model.in_warmup
    assert out.loss.item() == pytest.approx(F.cross_entropy(out.logits, labels).item())
    out.loss.backward()
    assert model.noise_layer.weight.grad.abs().sum() == 0
    model.set_epoch(2)
    out = model(images, labels=labels)
    assert not model.in_warmup
    assert out.loss.item() == pytest.approx(F.nll_loss(out.noisy_log_probs, labels).item())


def test_a_new_epoch_gives_the_layer_the_counts_of_the_last_one():
    model = noisy_vit(NoiseConfig(warmup_epochs=1)).train()
    images, labels = batch()
    start = model.noise_layer.weight.clone()
    model.set_epoch(0)
    predicted = model(images, labels=labels).logits.argmax(dim=1)
    model.set_epoch(0)  # the same epoch: nothing is taken yet
    assert torch.equal(model.noise_layer.weight, start)
    model.set_epoch(1)
    counts = torch.zeros(3, 3).index_put_((predicted, labels), torch.ones(len(labels)), accumulate=True)
    expected = NoiseLayer(model.noise_layer.config)
    expected.update_from_counts(counts)
    assert not torch.equal(model.noise_layer.weight, start)
    torch.testing.assert_close(model.noise_layer.weight, expected.weight)
    torch.testing.assert_close(model.noise_layer.label_weights, expected.label_weights)
    assert torch.equal(model.label_counts, counts.double())  # the last epoch's, while there are none of this


def test_soft_labels_stand_on_the_noisy_side():
    model = noisy_vit().train()
    images, labels = batch()
    soft = torch.full((4, 3), 0.1)
    soft[range(4), labels] = 0.8
    out = model(images, labels=soft)
    assert out.loss.item() == pytest.approx(-(soft * out.noisy_log_probs).sum(1).mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 3]), r"0\.\.2.*from 0 to 3"),
        (torch.tensor([0, 1, 2, -100]), r"0\.\.2.*from -100 to 2"),
        (torch.zeros(4, 2), r"\(4, 3\)"),
        (torch.zeros(4), r"float32 of shape \(4,\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        noisy_vit().train()(batch()[0], labels=labels)


def test_a_parameter_group_for_one_s_own_loop():
    model = noisy_vit(NoiseConfig(init="identity", lr_scale=0.25))
    network, noise = model.parameter_groups(lr=0.1, weight_decay=0.5)
    assert (network["lr"], network["weight_decay"]) == (0.1, 0.5)
    assert (noise["lr"], noise["weight_decay"]) == (0.025, 0.0)
    assert noise["params"] == [model.noise_layer.weight]
    assert len(network["params"]) + 1 == len(list(model.parameters()))


def test_a_plain_checkpoint_is_refused_with_the_way_to_go(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="from_backbone"):
        NoisyForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`backbone_config`"):
        NoisyImageClassificationConfig()
    with pytest.raises(ValueError, match=r"`num_classes`.*3.*got 4"):
        NoisyImageClassificationConfig(backbone_config=ViTConfig(num_labels=3), noise={"num_classes": 4})


def test_torch_compile_gives_the_same_loss():
    model = noisy_vit().train()
    images, labels = batch()
    expected = model(images, labels=labels).loss
    model.set_epoch(0)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(images, labels=labels).loss, expected)


def test_only_a_program_that_makes_a_noisy_model_changes_its_trainers():
    script = """if True:
        import copy, pickle
        import lightning_noisy, lightning_noisy.hf as hf
        from transformers import ViTConfig
        from transformers.trainer import DEFAULT_CALLBACKS
        names = lambda: [callback.__name__ for callback in DEFAULT_CALLBACKS]
        before = names()
        size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16)
        backbone = ViTConfig(**size)
        config = hf.NoisyImageClassificationConfig(backbone_config=backbone)
        model = hf.NoisyForImageClassification(config)
        copy.deepcopy(model)
        print(before, names()[len(before):])
    """
    ran = subprocess.run([plain_python(), "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['DefaultFlowCallback'] ['NoiseLayerCallback']", ran.stderr


def test_a_trainer_that_makes_the_first_model_itself_has_the_callback(tmp_path):
    script = """if True:
        import sys
        import lightning_noisy.hf as hf
        from transformers import Trainer, TrainingArguments, ViTConfig

        def make():
            size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16)
            config = hf.NoisyImageClassificationConfig(backbone_config=ViTConfig(**size))
            return hf.NoisyForImageClassification(config)

        trainer = Trainer(model_init=make, args=TrainingArguments(sys.argv[1], use_cpu=True, report_to="none"))
        print([type(callback).__name__ for callback in trainer.callback_handler.callbacks])
    """
    command = [plain_python(), "-c", script, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "NoiseLayerCallback" in ran.stdout, ran.stderr


def test_a_model_that_comes_pickled_changes_them_too(tmp_path):
    torch.save(noisy_vit(), tmp_path / "model.pt")
    script = """if True:
        import sys, torch
        from transformers.trainer import DEFAULT_CALLBACKS
        torch.load(sys.argv[1], weights_only=False)
        print([callback.__name__ for callback in DEFAULT_CALLBACKS])
    """
    command = [plain_python(), "-c", script, str(tmp_path / "model.pt")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['DefaultFlowCallback', 'NoiseLayerCallback']", ran.stderr


def test_the_record_of_the_training_is_saved_and_comes_back(tmp_path):
    model = noisy_vit()
    model.run_record.metrics["eval_loss"] = 0.5
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "noisy_training.json").read_text())["metrics"] == {"eval_loss": 0.5}
    assert NoisyForImageClassification.from_pretrained(tmp_path).run_record.metrics == {"eval_loss": 0.5}


def test_labels_may_be_whole_numbers_of_any_type():
    images, labels = batch()
    model = noisy_vit().train()
    assert model(images, labels=labels.int()).loss == model(images, labels=labels).loss
    with pytest.raises(ValueError, match=r"`noisy_labels` to be integers of shape \(B,\).*int64 of shape \(4, 1\)"):
        model(images, labels=labels[:, None])
