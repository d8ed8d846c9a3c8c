"""Feature maps to feature maps."""
