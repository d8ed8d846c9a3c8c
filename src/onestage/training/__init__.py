"""Training: one readable loop, its state and its parts."""
