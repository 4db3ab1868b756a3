"""What a model is, how to get one and how to run it."""
