"""Which labels are wrong, and what they should be."""

from typing import TYPE_CHECKING

from lightning_noisy.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from lightning_noisy.audit.judging.by_features import audit_by_features
    from lightning_noisy.audit.judging.by_model import audit_labels
    from lightning_noisy.audit.label_audit import LabelAudit
    from lightning_noisy.audit.refining import refine_labels
    from lightning_noisy.audit.summary import AuditSummary

__all__ = ["AuditSummary", "LabelAudit", "audit_by_features", "audit_labels", "refine_labels"]

__getattr__ = lazy_names(
    __name__,
    {
        "AuditSummary": "lightning_noisy.audit.summary",
        "LabelAudit": "lightning_noisy.audit.label_audit",
        "audit_by_features": "lightning_noisy.audit.judging.by_features",
        "audit_labels": "lightning_noisy.audit.judging.by_model",
        "refine_labels": "lightning_noisy.audit.refining",
    },
)
