"""llama.cpp's converter on Llama 3's rope settings: `python rope_factors.py SOURCE < SETTINGS`.

SOURCE: a folder with llama.cpp's `conversion` and `gguf-py`. SETTINGS: JSON, [theta, head size, factor, low, high,
original context] each. Prints the CPU's path of PyTorch, then the float32 bytes of each one's factors as hexadecimal.
Started with ATEN_CPU_CAPABILITY=avx2, since PyTorch's powers differ between AVX2 and AVX-512.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace


def main(source: str) -> None:
    sys.path[:0] = [source, f"{source}/gguf-py"]
    import torch
    from conversion.llama import LlamaModel

    print(torch.backends.cpu.get_cpu_capability())
    for theta, head, factor, low, high, context in json.load(sys.stdin):
        parameters = {
            "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": context,
        }  # fmt: skip
        model = SimpleNamespace(rope_parameters=parameters, hparams={"head_dim": head}, format_tensor_name=str)
        ((_, factors),) = LlamaModel.generate_extra_tensors(model)
        print(factors.numpy().tobytes().hex())


if __name__ == "__main__":
    main(sys.argv[1])
