"""The facet family."""
