"""From detections and truths to numbers and reports. Knows nothing of models."""

from onestage.metrics.book import BookMetrics
from onestage.metrics.coco import CocoMetrics, coco_metrics
from onestage.metrics.plots import plot_pr_curves, plot_training_curves
from onestage.metrics.report import Report, measure
from onestage.metrics.voc import VocMetrics, voc_metrics

__all__ = [
    "BookMetrics",
    "CocoMetrics",
    "Report",
    "VocMetrics",
    "coco_metrics",
    "measure",
    "plot_pr_curves",
    "plot_training_curves",
    "voc_metrics",
]
