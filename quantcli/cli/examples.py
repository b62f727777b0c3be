"""The examples at the end of each command's help. A test runs all of them in this order, on a small model.

Lines fit a terminal of 60 columns. Comments and commands can be pasted into a shell together.
"""

from __future__ import annotations

EXAMPLES = {
    "convert": """\
# Quantize a model from the Hub to 4 bits, for MLX.
quant convert Qwen/Qwen3-0.6B qwen3-4bit -s affine4-g64
# Convert the result to GGUF without rounding it again.
quant convert qwen3-4bit qwen3.gguf
# Print what a llama-quantize preset would do.
quant convert Qwen/Qwen3-0.6B q4.gguf -s q4_k_m --dry-run""",
    "inspect": """\
# Show a model on the Hub (downloads only headers).
quant inspect Qwen/Qwen3-0.6B
# Exit with 1 if a model has more than 5 bits per weight.
quant inspect qwen3-4bit --max-bpw 5
# Save the scheme of every weight as a recipe.
quant inspect qwen3-4bit --as-recipe > recipe.toml""",
    "diff": """\
# Show what quantizing changed.
quant diff Qwen/Qwen3-0.6B qwen3-4bit
# Exit with 1 unless both hold the same values.
quant diff qwen3-4bit qwen3.gguf --max-rmse 0""",
    "schemes": """\
# Print everything about one scheme.
quant schemes affine4-g64
# Print all schemes as JSON.
quant schemes --json""",
    "architectures": """\
# Print everything about the family of a model type.
quant architectures qwen3
# Print all families as JSON.
quant architectures --json""",
}

#: The first example of the three main commands: a comment and a command each.
FIRST_STEPS = "\n".join(line for name in ("convert", "inspect", "diff") for line in EXAMPLES[name].splitlines()[:2])
