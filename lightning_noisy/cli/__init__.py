"""The command line, ``lightning-noisy``."""

from lightning_noisy.utils.lazy_names import lazy_names

__all__ = ["console_script", "main"]

__getattr__ = lazy_names(
    __name__,
    {"console_script": "lightning_noisy.cli.lightning_cli", "main": "lightning_noisy.cli.lightning_cli"},
)
