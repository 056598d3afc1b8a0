"""Warnings of the first process alone, for modules that need nothing else of Lightning: it takes seconds to import."""


def rank_zero_warn(message: str) -> None:
    """Lightning's own, imported when there is something to warn of."""
    from lightning.pytorch.utilities import rank_zero_warn as warn

    warn(message, stacklevel=5)  # the place in the code is that of the caller
