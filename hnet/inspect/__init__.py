"""A model's boundaries on a text: terminal, HTML, PNG."""
