"""slow_quant.py where MLX's default device counts as a GPU; its CPU computes: python gpu_quant.py NAP ARGUMENTS..."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx

if __name__ == "__main__":
    mx.default_device = lambda: SimpleNamespace(type=mx.DeviceType.gpu)  # type: ignore[assignment, return-value]
    runpy.run_path(str(Path(__file__).with_name("slow_quant.py")), run_name="__main__")
