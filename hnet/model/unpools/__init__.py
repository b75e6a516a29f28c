"""Unpools, from chunks back to units, one a file."""
