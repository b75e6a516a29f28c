"""Models of other code bases, in and out: names, configurations and weights."""
