"""The layers of a backbone in their order: freezing, and learning rates that fall from the head downwards."""

from typing import Any

from torch import nn


def layer_depths(model: Any) -> dict[str, int]:
    """The depth of each parameter by its name: 0 is the stem, then the blocks, the largest is the head.

    timm models tell their own grouping. Elsewhere each entry of a ``ModuleList`` (each child, where there is none) is a
    block, ``classifier`` or else the last layer with parameters is the head, and what follows the last block belongs
    to it.
    """
    if hasattr(model, "group_matcher"):
        from timm.models import group_parameters

        return group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    names = [name for name, _ in model.named_parameters()]
    head = _head_name(model, names)
    depths: dict[str, int] = {}
    depth, block = 0, ""
    for name in names:
        if name == head or name.startswith(f"{head}."):
            continue
        found = _block_name(model, name)
        is_new = found != block and not block.startswith(f"{found}.")
        if found and is_new:
            depth += bool(depths) or "." in found
            block = found
        depths[name] = depth
    top = max(depths.values(), default=-1) + 1
    return {name: depths.get(name, top) for name in names}


def set_trainable_blocks(model: nn.Module, trainable_blocks: int | None) -> None:
    """Freezes the lower part of a classifier.

    Args:
        model: Any image classifier.
        trainable_blocks: ``None`` trains everything, 0 only the head, ``n`` the head, the last ``n`` blocks and what
            lies above them.

    Raises:
        ValueError: If there are not so many blocks.
    """
    if trainable_blocks is None:
        return
    depths = layer_depths(model)
    head = max(depths.values())
    blocks = max(head - 1, 0)
    if not 0 <= trainable_blocks <= blocks:
        raise ValueError(
            f"Expected argument `trainable_blocks` to be None (train everything) or an integer in 0..{blocks}, the "
            f"number of blocks of this backbone, but got {trainable_blocks}."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad = depths[name] >= head - trainable_blocks


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The topmost modules that have parameters of which none is trained: to be kept in eval mode.

    So the batch norms of a frozen part keep their statistics and its dropout stays off.
    """
    parameters = list(model.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [model]
    return [frozen for child in model.children() for frozen in frozen_modules(child)]


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Optimizer groups of the parameters that are trained.

    Biases, norms and what a timm model names have no weight decay. With ``layer_decay`` the learning rate of each layer
    is ``lr * layer_decay ** (depth below the head)``, multiplied into ``lr``, which every scheduler reads.

    Source: Bao et al. 2021 (BEiT), arXiv 2106.08254.
    """
    depths = layer_depths(model) if layer_decay is not None else {}
    top = max(depths.values(), default=0)
    no_decay = _names_without_decay(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        below = top - depths.get(name, top)
        decays = parameter.ndim > 1 and not _is_named(name, no_decay)
        layer = "backbone" if layer_decay is None else "head" if below == 0 else f"layer_{depths[name]}"
        group_name = layer if decays else f"{layer}/no_decay"
        group = groups.setdefault(
            group_name,
            {
                "params": [],
                "lr": lr * (layer_decay or 1.0) ** below,
                "weight_decay": weight_decay if decays else 0.0,
                "name": group_name,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _names_without_decay(model: nn.Module) -> set[str]:
    no_weight_decay = getattr(model, "no_weight_decay", None)
    return set(no_weight_decay()) if callable(no_weight_decay) else set()


def _is_named(name: str, patterns: set[str]) -> bool:
    from timm.optim._param_groups import _matches_pattern

    return _matches_pattern(name, patterns)


def _head_name(model: nn.Module, names: list[str]) -> str:
    if any(name.startswith("classifier.") for name in names):
        return "classifier"
    return names[-1].rpartition(".")[0] if names else ""


def _block_name(model: nn.Module, name: str) -> str:
    """The path of the innermost entry of a ``ModuleList`` around a parameter; its first child if there is none."""
    parts = name.split(".")
    has_lists = any(isinstance(module, nn.ModuleList) for module in model.modules())
    if not has_lists:
        return parts[0]
    found = ""
    module: Any = model
    for index, part in enumerate(parts[:-1]):
        if isinstance(module, nn.ModuleList):
            found = ".".join(parts[: index + 1])
        module = getattr(module, part)
    return found
