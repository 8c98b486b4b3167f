"""`audit`: what may be wrong with pictures and labels, before anyone trains on them."""

from eyebright.audit.found import Audit
from eyebright.audit.inspect import audit

__all__ = ["Audit", "audit"]
