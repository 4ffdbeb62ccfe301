"""Toy worlds of this folder can be imported by name, by worker processes too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
