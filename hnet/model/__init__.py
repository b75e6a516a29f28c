"""The model, in pure torch: no process groups, no environment, no optimizer."""
