"""Better scales and codes for `--search best`: grid.py, floats.py; levels.py has the types.

errors.py: which encoding of a block is the better one.
"""
