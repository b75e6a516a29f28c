"""Boundary sources, one a file."""
