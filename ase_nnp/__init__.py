"""Neural-network potentials as ASE calculators."""
