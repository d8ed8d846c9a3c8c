"""What it takes to use a detector somewhere else: so far, how fast it is."""
