"""From unit ids to vectors, one kind a file."""
