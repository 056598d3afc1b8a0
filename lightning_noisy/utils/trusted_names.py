"""Which names of classes are followed where a file gives them: a checkpoint may be a stranger's."""

from collections.abc import Mapping
from typing import Any

TRUSTED_LIBRARIES = ("torch", "timm", "lightning", "transformers", "lightning_noisy")
"""A class of these is imported because a file names it; of others only what the program itself has imported."""
NAMES_OF_CLASSES = ("class_path", "data", "model", "optimizer", "lr_scheduler", "callbacks")
"""Keys of a configuration of the command line under which a text may be the name of a class."""
NO_CLASSES = ("cosine",)


def is_trusted(class_path: str) -> bool:
    """Whether a class may be imported because a file names it."""
    return class_path.partition(".")[0] in TRUSTED_LIBRARIES


def expect_trusted_names(config: Any, file: str) -> None:
    """Looks at every name of a class in a configuration that a file holds, and imports none.

    Args:
        config: Mappings, lists and primitives.
        file: For the message.

    Raises:
        ValueError: If it names a class of another library.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            for name in value if isinstance(value, list) else [value]:
                is_name = key in NAMES_OF_CLASSES and isinstance(name, str) and name not in NO_CLASSES
                if is_name and not is_trusted(name):
                    raise ValueError(
                        f"Expected the classes that {file!r} names to be of {', '.join(TRUSTED_LIBRARIES)}, but got "
                        f"{name!r} as `{key}`, which would run code because a file names it. If you trust it, give the "
                        "config.yaml of its training by `--config`."
                    )
            expect_trusted_names(value, file)
    elif isinstance(config, list):
        for value in config:
            expect_trusted_names(value, file)
