"""Feature maps to logits and box offsets."""
