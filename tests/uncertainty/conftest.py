"""Small models of these tests, importable by other processes too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
