"""Settings of every test."""

from hypothesis import settings

# No deadline: the first example pays for imports. Derandomised: a run in CI can be repeated exactly.
settings.register_profile("hnet", deadline=None, derandomize=True)
settings.load_profile("hnet")
