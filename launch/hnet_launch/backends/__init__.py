"""Ways to start ranks, one tool a file. Each makes commands; none starts anything itself."""
