"""Who reads the layouts of a family."""

from __future__ import annotations

READERS = {
    "dense": ("mlx-lm", "llama.cpp", "transformers", "vLLM", "SGLang"),
    "mlx": ("mlx-lm", "LM Studio", "mlx-swift"),
    "ggml": ("llama.cpp", "Ollama", "LM Studio"),
    **dict.fromkeys(
        ("awq", "gptq", "ct", "fp8", "modelopt", "quark", "bnb", "gpt-oss"), ("transformers", "vLLM", "SGLang")
    ),
    **dict.fromkeys(("awq-gemv", "awq-gemv-fast", "hqq", "torchao", "bare"), ("transformers",)),
    "quanto": ("optimum-quanto",),
}
