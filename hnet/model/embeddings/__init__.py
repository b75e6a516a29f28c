"""What is added to the table of units, one a file."""
