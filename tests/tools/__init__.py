"""Tools that look for faults: nonsense, kills, power cuts, bad networks."""
