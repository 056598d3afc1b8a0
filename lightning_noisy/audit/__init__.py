"""Which labels are wrong, and what they should be."""

from lightning_noisy.audit.auditing import audit_labels
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.summary import AuditSummary

__all__ = ["AuditSummary", "LabelAudit", "audit_labels"]
