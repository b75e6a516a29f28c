"""For our tests and yours: several ranks on one machine, random models and packs, comparison with float64.

Needs `hnet-lm[test]`.
"""
