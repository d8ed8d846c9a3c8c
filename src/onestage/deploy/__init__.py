"""Tools for the use of a detector outside training. So far: how fast it is."""
