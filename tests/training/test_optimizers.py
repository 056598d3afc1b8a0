import functools
import importlib
import itertools

import pytest
import torch
from torch import nn

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.training import optimizers as optimisation


def _optimizer(lrs=(0.1, 0.01)):
    return torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs])


@pytest.mark.parametrize(
    "value", [torch.optim.SGD, functools.partial(torch.optim.AdamW, lr=0.3, betas=(0.5, 0.9)), torch.optim.AdamW]
)
def test_a_callable_survives_as_primitives(value):
    primitives = optimisation.callable_to_primitives(value)
    assert isinstance(primitives, dict)
    parameters = [nn.Parameter(torch.zeros(1))]
    first, second = (
        value(parameters),
        optimisation.resolve_callable("optimizer", primitives, torch.optim.Optimizer)(parameters),
    )
    assert type(first) is type(second)
    assert first.defaults.keys() == second.defaults.keys()
    assert all(
        tuple(v) == tuple(second.defaults[k]) if k == "betas" else v == second.defaults[k]
        for k, v in first.defaults.items()
    )


def test_a_function_has_no_primitives_and_words_stay_words():
    assert optimisation.callable_to_primitives(lambda parameters: torch.optim.SGD(parameters)) is None
    assert optimisation.callable_to_primitives("cosine") == "cosine"
    assert optimisation.callable_to_primitives(None) is None


@pytest.mark.parametrize(
    "value", ["AdamW", {"class_path": "torch.optim.AdmW"}, {"class": "x"}, {"class_path": "AdamW"}, 3]
)
def test_what_is_no_callable_is_named(value):
    with pytest.raises(ValueError, match="Expected argument `optimizer`"):
        optimisation.resolve_callable("optimizer", value, torch.optim.Optimizer)


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "torch.nn.Linear", "torch.load", "torch.optim.lr_scheduler.LinearLR"]
)
def test_only_an_optimizer_is_taken_for_one(path):
    with pytest.raises(ValueError, match=r"`optimizer` to be a subclass of torch\.optim.*Optimizer, but got"):
        optimisation.resolve_callable("optimizer", {"class_path": path}, torch.optim.Optimizer)


def test_a_strangers_library_is_not_imported_and_ones_own_is(tmp_path, monkeypatch):
    code = "import torch\nopen('ran', 'w')\nclass Own(torch.optim.SGD):\n    pass\n"
    (tmp_path / "a_strangers.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    described = {"class_path": "a_strangers.Own", "init_args": {"lr": 0.1}}
    module = NoisyImageClassifier("timm:test_resnet", num_classes=3, pretrained=False, optimizer=described)
    assert module.hparams["optimizer"] == described, "the model can be loaded, and exported, without it"
    with pytest.raises(ValueError, match="If you trust it, `import a_strangers` before"):
        module.configure_optimizers()
    assert not (tmp_path / "ran").exists()
    importlib.import_module("a_strangers")
    found = optimisation.resolve_callable("optimizer", described, torch.optim.Optimizer)
    assert type(found([nn.Parameter(torch.zeros(1))])).__name__ == "Own"


def test_a_cosine_must_know_the_length():
    assert optimisation.known_steps(7.0) == 7
    with pytest.raises(ValueError, match=r"`trainer\.max_epochs` or `trainer\.max_steps`"):
        optimisation.known_steps(float("inf"))


def test_cosine_follows_its_formula_in_every_group():
    optimizer = _optimizer()
    scheduler = optimisation.cosine_schedule(optimizer, total_steps=10)
    for step in range(10):
        expected = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 10))).item()
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.1 * expected, 0.01 * expected], abs=1e-8
        )
        optimizer.step()
        scheduler.step()


def test_the_learning_rate_rises_before_it_falls():
    optimizer = _optimizer()
    scheduler = optimisation.cosine_schedule(optimizer, total_steps=20, warmup_steps=4)
    seen = []
    for _ in range(20):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert all(later < earlier for earlier, later in itertools.pairwise(seen[4:]))


def test_one_cycle_keeps_the_ratio_of_the_groups():
    optimizer = _optimizer()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    assert optimisation.has_own_max_lr(scheduler)
    optimisation.keep_group_ratios(optimizer, [0.1, 0.01])
    for _ in range(9):
        optimizer.step()
        scheduler.step()
        network, noise = (group["lr"] for group in optimizer.param_groups)
        assert noise == pytest.approx(0.1 * network)
