"""Scores and offsets to detections."""
