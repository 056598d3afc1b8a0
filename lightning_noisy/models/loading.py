"""While a backbone is loaded: errors in one sentence, and less talk."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading(backbone: str, pretrained: bool) -> Iterator[None]:
    """Turns whatever goes wrong while a backbone is loaded into one sentence that says what to do."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"Argument `backbone_kwargs` does not fit {backbone!r}: {error}.") from error
    except Exception as error:  # the network, the Hub and files raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        cause = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(". ")
        remedy = "Check the name and the connection, or give a local folder"
        remedy += ", or set `pretrained` to false to start from random weights." if pretrained else "."
        raise ValueError(f"The backbone {backbone!r} can't be loaded: {cause}. {remedy}") from error


@contextmanager
def errors_only() -> Iterator[None]:
    """Keeps transformers from reporting at length that the head is new, which is meant."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
