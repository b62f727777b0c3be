"""llama.cpp's converter and quantizer as commands, for `bench.py`; runs with the Python that `make peers` sets up.

    llama_tools.py convert SOURCES MODEL OUTPUT         convert_hf_to_gguf.py of llama.cpp's sources, to bf16
    llama_tools.py quantize INPUT OUTPUT FTYPE THREADS  what llama-quantize calls, in llama-cpp-python's library

The converter knows tokenizers by a digest of what they do, and refuses all others; the synthetic model's (that of the
demo model) it is told to take for qwen2's.
"""

from __future__ import annotations

import ctypes
import runpy
import sys
from pathlib import Path


def convert(sources: str, model: str, output: str) -> None:
    sys.path[:1] = [sources, str(Path(sources) / "gguf-py")]  # not this folder: transformers asks for `kernels`
    from conversion import base

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    sys.argv[1:] = [model, "--outfile", output, "--outtype", "bf16"]
    runpy.run_path(str(Path(sources) / "convert_hf_to_gguf.py"), run_name="__main__")


def quantize(given: str, output: str, ftype: str, threads: str) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(ftype), int(threads)
    if llama_cpp.llama_model_quantize(given.encode(), output.encode(), ctypes.byref(params)):
        raise SystemExit(f"{given} was not quantized")


if __name__ == "__main__":
    {"convert": convert, "quantize": quantize}[sys.argv[1]](*sys.argv[2:])
