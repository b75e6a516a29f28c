"""Generation with the caches of every stage."""
