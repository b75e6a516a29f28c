"""For our tests and yours: several ranks on one machine, ragged packs, comparison with float64. Needs `hnet-lm[test]`."""
