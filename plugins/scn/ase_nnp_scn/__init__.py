"""The scn family."""
