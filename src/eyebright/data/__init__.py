"""Pictures with labels: where they come from, and the one form they all take."""

from eyebright.data.dataset import Dataset
from eyebright.data.sources import load

__all__ = ["Dataset", "load"]
