"""Starting runs on clusters. Starts without torch."""
