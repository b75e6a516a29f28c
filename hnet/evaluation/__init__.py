"""Held-out measures of a trained model."""
