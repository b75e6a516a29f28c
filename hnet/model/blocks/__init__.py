"""Layers and their parts, one mixer, norm or MLP a file."""
