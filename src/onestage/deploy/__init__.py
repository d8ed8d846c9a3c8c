"""A detector outside training: how fast it is, and files of it that other programs run."""
