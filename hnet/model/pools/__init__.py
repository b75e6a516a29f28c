"""Pools, from units to chunks, one a file."""
