"""Pictures to feature maps."""
