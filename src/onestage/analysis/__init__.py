"""What detections are worth and where they fail: from detections and truths to plain data. Knows nothing of models."""

from onestage.analysis.analysis import Analysis, AnalysisSettings, analyse

__all__ = ["Analysis", "AnalysisSettings", "analyse"]
