"""Optimizers and schedulers as the command line gives them, and as primitives in a checkpoint."""

import functools
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from lightning_noisy.utils.trusted_names import is_trusted

Primitives = dict[str, Any]


def resolve_callable(
    name: str, value: Callable[..., Any] | Mapping[str, Any], base: type[Optimizer] | type[LRScheduler]
) -> Callable[..., Any]:
    """A callable from itself or from ``{"class_path": ..., "init_args": {...}}``.

    A checkpoint may be a stranger's: only subclasses of ``base`` are taken, and nothing is imported for them but torch,
    timm, Lightning and transformers. A class of another library must have been imported before; where it was not, the
    error comes when it is called, so that a model can be loaded without what has trained it.

    Args:
        name: Of the argument, for messages.
        value: The callable, or the description of a class.
        base: :class:`~torch.optim.Optimizer` or :class:`~torch.optim.lr_scheduler.LRScheduler`.

    Raises:
        ValueError: If ``value`` is neither, or the class does not exist or is no subclass of ``base``. The message
            starts with ``name``.
    """
    if callable(value):
        return value
    expected = f"Expected argument `{name}` to be a callable or a dict with `class_path` and `init_args`, but got"
    if not isinstance(value, Mapping) or not isinstance(value.get("class_path"), str):
        raise ValueError(f"{expected} {value!r}.")
    path, init_args = value["class_path"], value.get("init_args") or {}
    module, _, class_name = path.rpartition(".")
    if module and not is_trusted(path) and module not in sys.modules:
        return functools.partial(_refuse_to_import, name, path)
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{expected} the unknown class {path!r}.") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"Expected argument `{name}` to be a subclass of {base.__module__}.{base.__qualname__}, but got {path!r}. "
            "Where it comes from a file, look at who wrote that."
        )
    return functools.partial(found, **init_args)


def _refuse_to_import(name: str, path: str, *_: Any) -> Any:
    module = path.rpartition(".")[0]
    raise ValueError(
        f"Expected argument `{name}` to be a class of torch, timm, lightning or transformers, or one that this program "
        f"has imported, but got {path!r}. If you trust it, `import {module}` before the model is loaded."
    )


def callable_to_primitives(value: Callable[..., Any] | Mapping[str, Any] | str | None) -> Primitives | str | None:
    """What :func:`resolve_callable` reads back, or ``None`` for a callable that can't be told in primitives."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, type):
        return _class_to_primitives(value, {})
    if not isinstance(value, functools.partial):
        return None
    # jsonargparse hands over a partial of its own function, with the class among the arguments
    found = next((part for part in (value.func, *value.args) if isinstance(part, type)), None)
    if found is None or not all(_is_primitive(argument) for argument in value.keywords.values()):
        return None
    return _class_to_primitives(found, value.keywords)


def known_steps(steps: float) -> int:
    """How many steps a training has; raises a :class:`ValueError` where nobody knows."""
    if not math.isfinite(steps):
        raise ValueError(
            "Expected `trainer.max_epochs` or `trainer.max_steps` to be given with the `lr_scheduler` 'cosine', which "
            "must know how long the training is, but got neither. Give one, beside `max_time` too, or another "
            "`lr_scheduler`."
        )
    return int(steps)


def cosine_schedule(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LRScheduler:
    """Cosine decay to zero over ``total_steps`` optimizer steps, after a linear rise over ``warmup_steps``."""
    cosine = CosineAnnealingLR(optimizer, T_max=max(total_steps - warmup_steps, 1))
    if warmup_steps == 0:
        return cosine
    rise = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
    return SequentialLR(optimizer, [rise, cosine], milestones=[warmup_steps])


def keep_group_ratios(optimizer: Optimizer, learning_rates: list[float]) -> None:
    """Undoes that a scheduler with a ``max_lr`` of its own gives every group the same one.

    Args:
        optimizer: After the scheduler was made; its groups carry ``max_lr``, ``initial_lr`` and ``min_lr``.
        learning_rates: The groups' learning rates from before; the largest one keeps what the scheduler gave it.
    """
    largest = max(learning_rates)
    for group, learning_rate in zip(optimizer.param_groups, learning_rates, strict=True):
        for key in ("max_lr", "initial_lr", "min_lr", "lr"):
            if key in group:
                group[key] = group[key] * learning_rate / largest


def has_own_max_lr(scheduler: Any) -> bool:
    """Whether the scheduler replaced the groups' learning rates (one-cycle, cyclic)."""
    return isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR | torch.optim.lr_scheduler.CyclicLR)


def _class_to_primitives(found: type, keywords: Mapping[str, Any]) -> Primitives:
    init_args = {name: _as_plain(argument) for name, argument in keywords.items()}
    return {"class_path": f"{found.__module__}.{found.__qualname__}", "init_args": init_args}


def _as_plain(value: Any) -> Any:
    return [_as_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_primitive(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_primitive(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
