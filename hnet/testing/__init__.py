"""Helpers for tests of models and training, ours and users' own."""
