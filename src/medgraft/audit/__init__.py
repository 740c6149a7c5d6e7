"""The audit of a data set: copies and leaks, people and labels, acquisition facts that give the label away."""

from medgraft.audit.audit import audit
from medgraft.audit.options import AuditOptions

__all__ = ["AuditOptions", "audit"]
