"""Processes that work together. The only room that names `torch.distributed` or reads launch variables."""
