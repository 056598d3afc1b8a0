"""The layers of a backbone in their order: freezing, and learning rates that fall from the head downwards."""

from fnmatch import fnmatch
from typing import Any

from timm.models import group_parameters
from torch import nn


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The depth of each parameter by its name: 0 is the stem, then the blocks, the largest is the head.

    timm models tell their own grouping. Elsewhere each entry of a ``ModuleList`` (each child, where there is none) is a
    block, ``classifier`` or else the last layer with parameters is the head, and what follows the last block belongs
    to it.
    """
    prefix, timm_model = _timm_part(model)
    if timm_model is not None:
        depths = group_parameters(timm_model, timm_model.group_matcher(coarse=False), reverse=True)
        return {prefix + name: depth for name, depth in depths.items()}
    heads = head_names(model)
    has_lists = any(isinstance(module, nn.ModuleList) for module in model.modules())
    depths = {}
    depth, block = 0, ""
    for name, _ in model.named_parameters():
        if name in heads:
            continue
        found = _block_name(model, name) if has_lists else name.partition(".")[0]
        if found:
            depth += (has_lists or bool(depths)) and not _is_inside(found, block) and not _is_inside(block, found)
            block = found
        depths[name] = depth
    top = max(depths.values(), default=-1) + 1
    return {name: depths.get(name, top) for name, _ in model.named_parameters()}


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
    head = max(depths.values(), default=0)
    blocks = max(head - 1, 0)
    if not 0 <= trainable_blocks <= blocks:
        raise ValueError(
            f"Expected argument `trainable_blocks` to be None (train everything) or an integer in 0..{blocks}, the "
            f"number of blocks of this backbone, but got {trainable_blocks}."
        )
    heads = head_names(model)
    for name, parameter in model.named_parameters():
        is_above = trainable_blocks > 0 and depths[name] >= head - trainable_blocks
        parameter.requires_grad = is_above or name in heads


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The topmost modules that have parameters of which none is trained: to be kept in eval mode.

    So the batch norms of a frozen part keep their statistics and its dropout stays off.
    """
    parameters = list(model.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [model]
    return [frozen for child in model.children() for frozen in frozen_modules(child)]


def block_classes(model: nn.Module) -> list[str]:
    """The classes of the repeated blocks, by name: what FSDP wraps and a device map does not split.

    A block is an entry of a list of modules of one class that have modules inside; the outermost such list counts,
    plain containers do not.
    """
    found: set[str] = set()

    def look_into(module: nn.Module) -> None:
        children = list(module.children())
        classes = {type(child) for child in children}
        is_list = isinstance(module, nn.ModuleList | nn.Sequential) and len(classes) == 1
        if (
            is_list
            and not classes & {nn.Sequential, nn.ModuleList}
            and all(list(child.children()) for child in children)
        ):
            found.add(classes.pop().__name__)
            return
        for child in children:
            look_into(child)

    look_into(model)
    return sorted(found)


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
    factor = 1.0 if layer_decay is None else layer_decay
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        below = top - depths.get(name, top)
        decays = parameter.ndim > 1 and not any(fnmatch(name, pattern) for pattern in no_decay)
        layer = "backbone" if layer_decay is None else "head" if below == 0 else f"layer_{depths[name]}"
        group_name = layer if decays else f"{layer}/no_decay"
        group = groups.setdefault(
            group_name,
            {
                "params": [],
                "lr": lr * factor**below,
                "weight_decay": weight_decay if decays else 0.0,
                "name": group_name,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _timm_part(model: nn.Module) -> tuple[str, Any]:
    """The timm model that this is, or that transformers has wrapped, and its prefix."""
    for prefix, candidate in (("", model), ("timm_model.", getattr(model, "timm_model", None))):
        if hasattr(candidate, "group_matcher"):
            return prefix, candidate
    return "", None


def _names_without_decay(model: nn.Module) -> set[str]:
    prefix, timm_model = _timm_part(model)
    no_weight_decay = getattr(timm_model, "no_weight_decay", set)
    return {prefix + name for name in no_weight_decay()}


def head_names(model: nn.Module) -> set[str]:
    prefix, timm_model = _timm_part(model)
    if timm_model is not None:
        classifier = timm_model.get_classifier()
        layers = classifier if isinstance(classifier, tuple) else (classifier,)
        parameters = {parameter for layer in layers for parameter in layer.parameters()}
        return {prefix + name for name, parameter in timm_model.named_parameters() if parameter in parameters}
    names = [name for name, _ in model.named_parameters()]
    last_layer = names[-1].rpartition(".")[0] if names else ""
    heads = {name for name in names if "classifier" in name.partition(".")[0]}
    return heads or {name for name in names if name.rpartition(".")[0] == last_layer}


def _is_inside(path: str, other: str) -> bool:
    return f"{path}.".startswith(f"{other}.")


def _block_name(model: nn.Module, name: str) -> str:
    """The path of the innermost entry of a ``ModuleList`` around a parameter; a nested list must repeat one class.

    Nested lists of unlike layers, such as a norm and a convolution between two stages, are parts of a block.
    """
    parts = name.split(".")
    found = ""
    module: Any = model
    for index, part in enumerate(parts[:-1]):
        if isinstance(module, nn.ModuleList) and (not found or len({type(entry) for entry in module}) == 1):
            found = ".".join(parts[: index + 1])
        module = getattr(module, part)
    return found
