"""Engines that run exported files: one file for each runtime, and what they share."""
