"""What ASE sees."""
