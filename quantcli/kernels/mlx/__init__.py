"""Kernels of MLX's number formats."""
