"""MLX's own number formats, as mlx-lm stores them."""
