"""What a run needs and costs, before anyone pays for it. Imports no torch and needs no GPU."""
