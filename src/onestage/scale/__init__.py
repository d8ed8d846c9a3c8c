"""Batch work: millions of pictures on the processes of one machine, or on a Ray cluster."""
