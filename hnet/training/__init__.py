"""Training: one loop for one process and many, its engines, callbacks and checkpoints."""
