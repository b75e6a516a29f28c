"""Measurements of speed and memory: medians with their spread, written with the machine they were made on."""
