"""What plugins hand over, and which of them are installed."""
