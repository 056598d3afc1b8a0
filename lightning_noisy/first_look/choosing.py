"""Which training fits the data and the machine."""

from dataclasses import dataclass

import numpy as np

from lightning_noisy.first_look.looking import FirstLook
from lightning_noisy.first_look.machine import Machine

BACKBONE = "timm:vit_small_patch14_dinov2.lvd142m"
"""Its features tell photos of most kinds apart as they are, and it fits on every GPU. Patches of 14 pixels."""
SIDE, SMALL_SIDE = 224, 112
FEW_IMAGES, FEW_IN_A_CLASS = 1000, 20
"""Below these a network that is trained as a whole learns the images by heart."""
SLOW_FROM = 2000
"""Images for each core of a CPU; at 224 pixels a core looks at two or three in a second."""
MOST_REFINED = 200_000
"""Images whose features a probe of one machine takes in memory, in five folds."""
LITTLE_GPU_MEMORY = 12e9
BATCH = 64
PROBE_EPOCHS = 20
MOST_WARMUP_STEPS = 100


@dataclass(frozen=True)
class Choice:
    """A training, each setting with the reason that stands beside it in the file.

    Args:
        is_probe: Whether only a head is trained on frozen features.
        refines: Whether the labels are judged by the pretrained features before the training.
        gpus: How many it uses; 0 is whatever Lightning finds.
        precision: Of Lightning's Trainer.
        image_size: In pixels.
        batch_size: Of one process.
        accumulate: Batches in a step.
        epochs: How many.
        learning_rate: Of AdamW.
        warmup_steps: In which it grows to this.
        workers: That read images, for each process; ``None`` is the data module's own choice.
        why: In a sentence, what it is and why.
        reasons: By setting.
    """

    is_probe: bool
    refines: bool
    gpus: int
    precision: str
    image_size: int
    batch_size: int
    accumulate: int
    epochs: int
    learning_rate: float
    warmup_steps: int
    workers: int | None
    why: str
    reasons: dict[str, str]


def choose(look: FirstLook, machine: Machine) -> Choice:
    """A linear probe for few images or without a GPU, else all of the network, on all GPUs."""
    images, counts = len(look.splits["train"]), look.class_counts
    has_few = images < FEW_IMAGES or float(np.median(counts)) < FEW_IN_A_CLASS
    is_probe = has_few or not machine.gpus
    gpus = min(len(machine.gpus), 1) if is_probe else len(machine.gpus)
    reasons: dict[str, str] = {}
    precision = _precision(machine, reasons)
    image_size = _image_size(look, machine, reasons)
    batch_size, accumulate = _batch(images, machine, is_probe, reasons)
    epochs = _epochs(images, is_probe, reasons)
    step = batch_size * accumulate * max(gpus, 1)
    steps = epochs * max(images // step, 1)
    if gpus > 1:
        reasons["learning_rate"] = f"grows with the root of the {step} images of a step on {gpus} GPUs"
    return Choice(
        is_probe=is_probe,
        refines=not is_probe and images <= MOST_REFINED,
        gpus=gpus,
        precision=precision,
        image_size=image_size,
        batch_size=batch_size,
        accumulate=accumulate,
        epochs=epochs,
        learning_rate=0.001 if is_probe else float(f"{0.0005 * (step / BATCH) ** 0.5:.1g}"),
        warmup_steps=min(MOST_WARMUP_STEPS, steps // 10),
        workers=max(1, min(8, machine.cpu_cores // gpus)) if gpus else None,
        why=_why(images, counts, machine, is_probe, has_few, gpus),
        reasons=reasons,
    )


def _why(images: int, counts: np.ndarray, machine: Machine, is_probe: bool, has_few: bool, gpus: int) -> str:
    if not is_probe:
        where = f"{gpus} GPUs share" if gpus > 1 else "there is a GPU for"
        return f"All of a pretrained network is fine-tuned: {where} the {images:,} images."
    if has_few:
        few = f"{images:,} images, about {int(np.median(counts)):,} of each class, are few"
        return f"Only a head is trained on the features of a frozen pretrained network: {few}."
    kind = "that of this Mac is no match for one of a server" if machine.has_mps else "there is no GPU"
    return f"Only a head is trained on the features of a frozen pretrained network: {kind}."


def _precision(machine: Machine, reasons: dict[str, str]) -> str:
    if not machine.gpus:
        reasons["precision"] = "bf16-mixed on a GPU"
        return "32-true"
    if all(gpu.has_bfloat16 for gpu in machine.gpus):
        reasons["precision"] = "the noise layer computes in float32 all the same"
        return "bf16-mixed"
    reasons["precision"] = f"{machine.gpus[0].name} knows no bfloat16"
    return "16-mixed"


def _image_size(look: FirstLook, machine: Machine, reasons: dict[str, str]) -> int:
    """The network's patches are 14 pixels wide: the side is a multiple of that."""
    middle = float(np.median(look.sides.min(axis=1))) if len(look.sides) else float(SIDE)
    if middle <= SMALL_SIDE:
        reasons["image_size"] = f"the shorter side of the images is {middle:.0f} pixels (median)"
        return SMALL_SIDE
    if not machine.gpus and look.images > SLOW_FROM * machine.cpu_cores:
        reasons["image_size"] = f"{SIDE} shows more; without a GPU {look.images:,} images would take long"
        return SMALL_SIDE
    reasons["image_size"] = "the network's own side of 518 has five times as many pixels"
    return SIDE


def _batch(images: int, machine: Machine, is_probe: bool, reasons: dict[str, str]) -> tuple[int, int]:
    """Images of a process, and batches in a step."""
    if images < 10 * BATCH:
        size = max(8, 2 ** int(np.log2(max(images / 10, 1))))
        reasons["batch_size"] = f"of {images:,} images, so that an epoch has some steps"
        return size, 1
    memory = min((gpu.memory for gpu in machine.gpus), default=0)
    if not is_probe and memory < LITTLE_GPU_MEMORY:
        reasons["batch_size"] = f"{memory / 1e9:.0f} GB of GPU memory; two batches make a step"
        return BATCH // 2, 2
    return BATCH, 1


def _epochs(images: int, is_probe: bool, reasons: dict[str, str]) -> int:
    if is_probe:
        return PROBE_EPOCHS
    reasons["epochs"] = "longer than needed, and wrong labels are learned by heart"
    return 15 if images <= 100_000 else 10 if images <= 1_000_000 else 5
