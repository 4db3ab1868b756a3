"""Benchmarks by name or file: adsorption, OC20, solvation, elastic constants, heat capacities."""
