"""Checks of the Triton kernels that need no GPU: ahead-of-time compilation and a count of the bytes they move."""
