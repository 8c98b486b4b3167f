"""`eyebright report`: what a run is worth, on one page that needs nothing else."""

from eyebright.report.page import write_report

__all__ = ["write_report"]
