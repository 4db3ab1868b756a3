"""The escaip family."""
