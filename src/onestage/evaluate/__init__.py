"""From detections and truths to numbers and reports. Knows nothing of models."""

from onestage.evaluate.anchors import BookMetrics
from onestage.evaluate.coco import CocoMetrics, coco_metrics
from onestage.evaluate.plots import plot_pr_curves, plot_training_curves
from onestage.evaluate.report import Report, measure
from onestage.evaluate.voc import VocMetrics, voc_metrics

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
