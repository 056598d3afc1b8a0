"""The one description of a noise layer that every entry (CLI, mixin, transformers) shares."""

import dataclasses
import difflib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_noisy.noise.initial import from_matrix

NoiseType = Literal["softmax", "stochastic"]
DropoutOn = Literal["output", "input", "weight"]
Init = Literal["confusion", "identity"]
Objective = Literal["posterior", "likelihood"]

FORMAT_VERSION = 3
BEFORE_COUNTS: dict[str, Any] = {"init": "identity", "class_balance": 0.0}
"""What a description of format 1, which knows no counts, meant."""
BEFORE_POSTERIOR: dict[str, Any] = {"objective": "likelihood"}
"""What a description of formats 1 and 2 meant."""
NO_LONGER_KNOWN = ("rescue_below", "clean_loss_weight")
"""What descriptions of formats 1 and 2 may hold and nothing reads any more."""


@dataclass(frozen=True)
class NoiseConfig:
    """Describes a noise layer and how it is trained.

    Args:
        num_classes: Number of classes ``K``, at least 2. ``None`` where the model fills it in.
        noise_type: ``"softmax"`` is ``softmax(dropout(W p))`` with an unconstrained ``W`` (Jindal, Nokleby, Chen 2016);
            ``"stochastic"`` is ``Tᵀp`` with a row-stochastic ``T`` (Sukhbaatar 2014, Goldberger 2017), which with
            ``trainable=False`` and a given ``transition_matrix`` is forward correction (Patrini 2017).
        dropout: Drop rate in ``[0, 1)``. Only the softmax layer has dropout.
        dropout_on: Where the dropout sits: ``"output"`` on ``W p`` (the authors' code), ``"input"`` on ``p``,
            ``"weight"`` on the entries of ``W``.
        init: ``"confusion"`` starts from a scaled identity and at each epoch's end sets the layer to the matrix that
            the epoch's counts of (predicted class, label) give, see :meth:`NoiseLayer.update_from_counts
            <lightning_noisy.NoiseLayer.update_from_counts>`; no gradient steps are taken. ``"identity"`` starts from a
            scaled identity and leaves all to learning, as published. With ``trainable=False`` or a given
            ``transition_matrix`` nothing is counted into the layer.
        objective: ``"posterior"`` trains the network towards what the layer believes of the true class, given image and
            label (:func:`~lightning_noisy.noise.functional.posterior_targets`); ``"likelihood"`` on ``-log q[label]``,
            as published. A layer that learns by gradient steps always takes the likelihood, and so does one that was
            never told a matrix.
        init_scale: The layer starts from ``init_scale * I``; ``"auto"`` follows the number of classes, see
            :meth:`start_scale`.
        trainable: Whether the noise model is learned or counted. ``False`` keeps it at its start.
        transition_matrix: Where the noise model starts (or stays) instead of a scaled identity: ``(K, K)`` rows that
            sum to one, ``T[i][j] = P(noisy=j | clean=i)``, or the path of a CSV file with them. Zeros stay zeros: give
            small numbers to what is learned.
        warmup_epochs: Epochs of plain cross-entropy before the noise layer acts. ``"auto"`` waits until the network has
            learned what it needs, begins with an eighth of the loss unless a validation on noisy labels shows that they
            are being learned by heart, and steps back where it loses a class
            (:func:`~lightning_noisy.noise.share.next_share`).
        lr_scale: Learning rate of a layer that learns by gradient steps, relative to the network's.
        class_balance: From the second epoch on an image weighs ``(share of its label)^-class_balance``, scaled to a
            mean of one, so that rare classes are not given up. In ``[0, 1]``; 0 weighs all alike.

    Raises:
        ValueError: If an argument is outside what is said above.

    Example:
        >>> round(NoiseConfig(num_classes=100).start_scale(), 3)
        3.398
    """

    num_classes: int | None = None
    noise_type: NoiseType = "softmax"
    dropout: float = 0.1
    dropout_on: DropoutOn = "output"
    init: Init = "confusion"
    objective: Objective = "posterior"
    init_scale: float | Literal["auto"] = "auto"
    trainable: bool = True
    transition_matrix: list[list[float]] | str | None = None
    warmup_epochs: int | Literal["auto"] = "auto"
    lr_scale: float = 1.0
    class_balance: float = 0.5

    def __post_init__(self) -> None:
        _config_arg_validation(self)
        if self.transition_matrix is not None:
            matrix = from_matrix(self.transition_matrix, self.num_classes)
            object.__setattr__(self, "transition_matrix", matrix.tolist())
            object.__setattr__(self, "num_classes", len(matrix))

    @classmethod
    def paper(cls, num_classes: int | None = None) -> "NoiseConfig":
        """The layer exactly as published: ``W = I``, learned at the network's rate from the first step.

        Source: Jindal, Nokleby, Chen 2016, arXiv 1705.03419, and the authors' code.
        """
        return cls(
            num_classes, init="identity", objective="likelihood", init_scale=1.0, warmup_epochs=0, class_balance=0.0
        )

    @property
    def follows_counts(self) -> bool:
        """Whether the layer is set anew from the counts of each epoch."""
        return self.init == "confusion" and self.trainable and self.transition_matrix is None

    @property
    def takes_gradients(self) -> bool:
        """Whether the layer learns by gradient steps."""
        return self.trainable and not self.follows_counts

    def start_scale(self) -> float:
        """The number that multiplies the identity at the start.

        With ``init_scale="auto"`` the softmax layer uses ``max(1, 1 + log((K - 1) / 9))``: the paper's ``W = I`` up to
        ``K = 10``, and beyond it the scale at which a certain network reaches the same largest noisy probability,
        ``e / (e + 9) = .232``, at every ``K`` (3.4 at 100 classes, 5.7 at 1000). The stochastic layer uses
        ``3 + log((K - 1) / 9)``, a diagonal of ``e³ / (e³ + 9) = .69`` at every ``K``.
        """
        if self.init_scale != "auto":
            return float(self.init_scale)
        if self.num_classes is None:
            raise ValueError("Expected argument `num_classes` to be set before the scale is asked for, but got None.")
        growth = math.log((self.num_classes - 1) / 9)
        return max(1.0, 1.0 + growth) if self.noise_type == "softmax" else 3.0 + growth

    def with_num_classes(self, num_classes: int) -> "NoiseConfig":
        """This configuration for ``num_classes`` classes; a :class:`ValueError` if it was made for another number."""
        if self.num_classes not in (None, num_classes):
            raise ValueError(
                f"Expected the noise layer's `num_classes` to be that of the model ({num_classes}), but got "
                f"{self.num_classes}. Leave it out and the model fills it in."
            )
        return dataclasses.replace(self, num_classes=num_classes)

    def to_dict(self) -> dict[str, Any]:
        """Primitives only, with the version of this format; :meth:`from_dict` reads it back."""
        return {**dataclasses.asdict(self), "format_version": FORMAT_VERSION}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NoiseConfig":
        """Reads what :meth:`to_dict` wrote, or a dict written by hand.

        Keys that a newer version of the format added are ignored with a warning. What an older one did not know is as
        it was then.

        Raises:
            ValueError: If a key is unknown and the dict is not from a newer version.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"Expected the noise configuration to be a mapping, but got {type(values).__name__}.")
        known = {field.name for field in dataclasses.fields(cls)}
        version = values.get("format_version", FORMAT_VERSION)
        if version < 3:
            known_then = {name: value for name, value in values.items() if name not in NO_LONGER_KNOWN}
            values = {**(BEFORE_COUNTS if version < 2 else {}), **BEFORE_POSTERIOR, **known_then}
        unknown = sorted(set(values) - known - {"format_version"})
        if unknown and version > FORMAT_VERSION:
            warnings.warn(
                f"The noise configuration was written by a newer version (format {version}); ignoring {unknown}. "
                "Upgrade lightning-noisy to use all of it.",
                stacklevel=2,
            )
        elif unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else f" Known keys: {sorted(known)}."
            raise ValueError(f"Unknown key `{unknown[0]}` in the noise configuration.{hint}")
        return cls(**{name: value for name, value in values.items() if name in known})


def resolve_noise_config(noise: "NoiseConfig | Mapping[str, Any] | int", num_classes: int | None = None) -> NoiseConfig:
    """A complete configuration from any form that a user may give: a config, a dict, or just the number of classes."""
    if isinstance(noise, int):
        noise = NoiseConfig(num_classes=noise)
    elif not isinstance(noise, NoiseConfig):
        noise = NoiseConfig.from_dict(noise)
    if num_classes is not None:
        noise = noise.with_num_classes(num_classes)
    if noise.num_classes is None:
        raise ValueError(
            "Expected argument `num_classes` of the noise layer to be an integer of at least 2, but got None."
        )
    return noise


def _config_arg_validation(config: NoiseConfig) -> None:
    def expect(name: str, is_right: bool, expected: str) -> None:
        if not is_right:
            raise ValueError(f"Expected argument `{name}` to be {expected}, but got {getattr(config, name)!r}.")

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    def is_integer(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    expect(
        "num_classes",
        config.num_classes is None or (is_integer(config.num_classes) and config.num_classes >= 2),
        "an integer of at least 2",
    )
    chosen = {"noise_type": get_args(NoiseType), "dropout_on": get_args(DropoutOn), "init": get_args(Init)}
    chosen["objective"] = get_args(Objective)
    for name, choices in chosen.items():
        expect(name, getattr(config, name) in choices, f"one of {list(choices)}")
    expect("dropout", is_number(config.dropout) and 0 <= config.dropout < 1, "a float in the [0,1) range")
    expect(
        "init_scale",
        config.init_scale == "auto" or (is_number(config.init_scale) and float(config.init_scale) > 0),
        "'auto' or a float above 0",
    )
    expect("trainable", isinstance(config.trainable, bool), "a bool")
    expect(
        "warmup_epochs",
        config.warmup_epochs == "auto" or (is_integer(config.warmup_epochs) and int(config.warmup_epochs) >= 0),
        "'auto' or an integer of at least 0",
    )
    expect("lr_scale", is_number(config.lr_scale) and config.lr_scale >= 0, "a float of at least 0")
    expect(
        "class_balance",
        is_number(config.class_balance) and 0 <= config.class_balance <= 1,
        "a float in the [0,1] range",
    )
