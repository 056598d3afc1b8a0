"""What remains of a training: a clean model in its library's own format, its card, and the push to the Hub."""

from typing import TYPE_CHECKING

from lightning_noisy.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from lightning_noisy.export.export import export_clean
    from lightning_noisy.hub.commit import PushError
    from lightning_noisy.hub.push import PushReport, push_clean

__all__ = ["PushError", "PushReport", "export_clean", "push_clean"]

__getattr__ = lazy_names(
    __name__,
    {
        "PushError": "lightning_noisy.hub.commit",
        "PushReport": "lightning_noisy.hub.push",
        "export_clean": "lightning_noisy.export.export",
        "push_clean": "lightning_noisy.hub.push",
    },
)
