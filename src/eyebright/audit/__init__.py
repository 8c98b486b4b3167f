"""`audit`: what may be wrong with pictures and labels, before anyone trains on them."""

from eyebright.audit.inspect import Audit, audit

__all__ = ["Audit", "audit"]
