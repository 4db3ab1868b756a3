"""Arrays in, numbers out: moments, scores, calibration (numpy and scipy only)."""
