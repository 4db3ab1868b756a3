"""Samples to files, and one format to another."""
