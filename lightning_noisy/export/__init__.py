"""From a training to a folder that plain timm or transformers loads, with its card."""

from lightning_noisy.utils.lazy_names import lazy_names

__all__ = ["export_clean"]

__getattr__ = lazy_names(__name__, {"export_clean": "lightning_noisy.export.export"})
