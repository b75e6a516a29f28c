"""From vectors to predictions, one kind a file."""
