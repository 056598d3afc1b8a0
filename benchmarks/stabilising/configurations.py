"""Random small trainings over everything that users vary, drawn by a number."""

import random
from dataclasses import asdict, dataclass, replace
from typing import Any

DATA = ("mnist",) * 4 + ("clouds",) * 4 + ("digits",) * 3 + ("shapes",) * 3 + ("features",) * 4 + ("fine-tuning",)
"""The default was chosen on other configurations of MNIST, digits, clouds and features, and on fine-tuning."""
NEVER_CHOSEN_ON = ("shapes", "photos")
"""No number of the rules was chosen on these; what harmed trainings on shapes have in common was looked at."""
UNSEEN_FROM = 30_000
"""From this number on all is drawn from these data, and nothing is validated."""
NETWORKS = {
    "mnist": ("linear", "mlp", "mlp with batch norm", "cnn", "cnn with batch norm", "vit"),
    "shapes": ("mlp with batch norm", "cnn", "cnn with batch norm", "vit"),
    "digits": ("linear", "mlp", "mlp with batch norm", "cnn with batch norm"),
    "clouds": ("linear", "mlp", "mlp with batch norm"),
    "features": ("linear", "mlp", "mlp with batch norm"),
    "photos": ("mlp with batch norm", "cnn", "cnn with batch norm", "vit"),
    "fine-tuning": ("mobilenetv2_035",),
}
NOISES = (
    "uniform:0", "uniform:0", "uniform:0.1", "uniform:0.2", "uniform:0.4", "uniform:0.5", "uniform:0.7",
    "pair:0.2", "pair:0.4", "nonuniform:0.3", "nonuniform:0.5", "nonuniform:0.7",
)  # fmt: skip
PEOPLES = ("clean", "aggre", "random1", "worse")
"""Columns of CIFAR-10N."""
EPOCHS = (2, 3, 5, 8, 12, 20, 40)
MOST_IMAGES = 50_000
"""Of all epochs together, so that 500 configurations take hours and not days; fewer for what takes longer."""
TRAINERS = ("loop",) * 16 + ("mixin", "mixin", "classifier", "transformers")


@dataclass(frozen=True)
class Configuration:
    """One training. What is not said by its names: ``width`` is that of hidden layers, ``noise`` also a column of
    CIFAR-10N, ``imbalance`` the most frequent class over the rarest, ``mixup`` its alpha, ``trainer`` who trains."""

    number: int
    data: str
    num_classes: int
    network: str
    width: int
    images: int
    noise: str
    imbalance: int
    epochs: int
    optimizer: str
    learning_rate: float
    schedule: str
    batch_size: int
    accumulation: int
    augmented: bool
    mixup: float
    validated: bool
    trainer: str
    processes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def has_competitors(self) -> bool:
        """Whether the competitors are trained too."""
        return self.trainer == "loop" and self.number % 2 == 0

    @property
    def is_noisy(self) -> bool:
        return self.noise not in ("uniform:0", "clean")


def draw(number: int) -> Configuration:
    """The configuration with this number, the same on every machine."""
    return draw_any(number) if number < UNSEEN_FROM else draw_unseen(number)


def draw_unseen(number: int) -> Configuration:
    """Shapes or photographs, whose networks are far from done in the few epochs, without a validation."""
    chance = random.Random(f"stability, unseen {number}")
    data = chance.choice(("shapes", "photos"))
    other = draw_any(number)
    return replace(
        other,
        data=data,
        num_classes=6 if data == "shapes" else 10,
        network=chance.choice(NETWORKS[data]),
        images=chance.choice((1200, 2500, 4000)),
        noise=chance.choice(NOISES if data == "shapes" or chance.random() < 0.5 else PEOPLES),
        epochs=chance.choice((3, 5, 8, 12, 20) if data == "shapes" else (3, 5, 8)),
        trainer="loop",
        processes=1,
        validated=False,
    )


def draw_any(number: int) -> Configuration:
    """Over everything that users vary."""
    chance = random.Random(f"stability {number}")
    data = chance.choice(DATA)
    num_classes = (
        chance.choice((2, 3, 5, 10, 30, 100, 300, 1000)) if data == "clouds" else 6 if data == "shapes" else 10
    )
    images = chance.choice((600, 1200, 2500, 5000))
    noise = chance.choice(PEOPLES) if data in ("features", "fine-tuning") and chance.random() < 0.6 else None
    if data == "clouds":
        images = max(images, 12 * num_classes)
    if data == "digits":
        images = min(images, 1200)
    if data == "fine-tuning":
        images = min(images, 1200)
    trainer = chance.choice(TRAINERS) if data != "clouds" else "loop"
    if trainer in ("classifier", "transformers"):
        data = data if data in ("mnist", "shapes", "digits") else "mnist"
        num_classes, noise = 6 if data == "shapes" else 10, None
    network = chance.choice(NETWORKS[data]) if trainer != "transformers" else "vit"
    width = chance.choice((32, 64, 128, 256))
    noise = noise or chance.choice(NOISES)
    imbalance = chance.choice((1, 1, 1, 5, 10))
    epochs = chance.choice(EPOCHS if data != "fine-tuning" else EPOCHS[:3])
    most = MOST_IMAGES if "cnn" not in network else MOST_IMAGES // 2
    return Configuration(
        number=number,
        data=data,
        num_classes=num_classes,
        network=network,
        width=width,
        images=images,
        noise=noise,
        imbalance=imbalance,
        epochs=max(number for number in EPOCHS if number <= max(min(epochs, most // images), EPOCHS[0])),
        optimizer=chance.choice(("adamw", "adamw", "sgd")),
        learning_rate=chance.choice((3e-4, 1e-3, 3e-3)),
        schedule=chance.choice(("cosine", "constant")),
        batch_size=chance.choice((32, 64, 128)),
        accumulation=chance.choice((1, 1, 1, 1, 2, 4)) if trainer in ("loop", "mixin") else 1,
        augmented=data in ("mnist", "shapes", "fine-tuning") and chance.random() < 0.3 and trainer == "loop",
        mixup=0.2 if trainer == "loop" and chance.random() < 0.1 else 0.0,
        validated=trainer in ("loop", "mixin", "classifier") and chance.random() < 0.6,
        trainer=trainer,
        processes=2 if trainer == "mixin" and chance.random() < 0.3 else 1,
    )
