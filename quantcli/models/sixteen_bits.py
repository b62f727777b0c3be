"""16-bit dtypes in which a model works: in some families activations exceed 65504, the largest value of float16.

transformers, vLLM and mlx-lm compute in the dtype of the weights. llama.cpp's activations are always float32, so this
does not concern GGUF.

Sources: vLLM (vllm/config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS: gemma2, gemma3, gemma3_text, glm4, plamo2), and
those named next to an entry of a family. For mlx-lm: the class of each model type (mlx_lm/models, 0.32.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Keys of config.json for the language model's settings in a model with further parts.
NESTED = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class SixteenBits:
    """The 16-bit dtypes in which a family works: `dtypes` in transformers and vLLM, `mlx` in mlx-lm.

    why: what fails in the other dtype, as a clause; empty if both work.
    """

    dtypes: tuple[str, ...] = ("f16", "bf16")
    mlx: tuple[str, ...] = ("f16", "bf16")
    why: str = ""

    def works(self, dtype: str, target: str) -> bool:
        """Return whether models work in a float dtype in a target's output; wider dtypes than 16 bits always do."""
        among = {"hf": self.dtypes, "mlx": self.mlx}.get(target)
        return among is None or dtype not in ("f16", "bf16") or dtype in among


BOTH = SixteenBits()
REFUSED = "vLLM refuses it as numerically unstable"
OVERFLOWS = "activations overflow"


def bf16_only(why: str, mlx: tuple[str, ...] = ("bf16",)) -> SixteenBits:
    """Return the dtypes for a family that fails in float16. mlx: includes f16 if mlx-lm's class clips its sums."""
    return SixteenBits(("bf16",), mlx, why)


#: mlx-lm's gemma3_text adds to the residual in float32 and clips (clip_residual); gemma3 contains it.
CLIPPED = ("f16", "bf16")


def model_types(config: Mapping[str, Any]) -> list[str]:
    """Return the model types that a config.json object names: at the top, and in the language model's block."""
    blocks = [config, *(block for key in NESTED if isinstance(block := config.get(key), Mapping))]
    return [kind for block in blocks if isinstance(kind := block.get("model_type"), str)]
