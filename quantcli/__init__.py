"""quant: converts model checkpoints between quantized formats, never rounding a weight twice."""

__version__ = "0.1.0"
