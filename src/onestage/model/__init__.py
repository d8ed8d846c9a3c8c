"""The network, and what gives its numbers a meaning."""
