"""Files on disk -> ``Dataset`` -> ``Sample`` -> ``Batch``. Knows nothing of models."""

from onestage.data.dataset import Dataset, Problem
from onestage.data.detections import read_detections
from onestage.data.reader import OpenData, list_splits, load_dataset, open_data

__all__ = ["Dataset", "OpenData", "Problem", "list_splits", "load_dataset", "open_data", "read_detections"]
