"""Rules that say from text alone where chunks begin, and the layout that gives their chunks separators."""
