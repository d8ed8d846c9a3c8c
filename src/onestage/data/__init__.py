"""Files on disk -> ``Dataset`` -> ``Sample`` -> ``Batch``. Knows nothing of models."""

from onestage.data.dataset import Dataset, Problem
from onestage.data.reader import list_splits, load_dataset

__all__ = ["Dataset", "Problem", "list_splits", "load_dataset"]
