"""One-stage, anchor-based object detection."""
