"""Comparing two models for `diff`: compare.py collects all differences, the other files find one kind each."""
