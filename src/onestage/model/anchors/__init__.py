"""Anchors, what they learn, and how boxes are written relative to them."""
