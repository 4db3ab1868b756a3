"""A catalog beside a dataset: one SQLite row a record, to be queried, paired, grouped and drawn."""
