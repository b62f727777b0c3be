"""Blocks with one scale: legacy.py (weighted.py with an importance matrix), floats.py, ternary.py."""
