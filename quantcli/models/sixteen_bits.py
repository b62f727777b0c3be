"""In which 16-bit dtypes a model works: in some families activations exceed 65504, the largest value of float16.

transformers, vLLM and mlx-lm compute in the dtype of the weights. llama.cpp's activations are float32 whatever a file
holds, so this does not concern GGUF.

Sources: vLLM (vllm/config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS: gemma2, gemma3, gemma3_text, glm4, plamo2), and what
stands next to an entry of the families. Of mlx-lm: the class of each model type (mlx_lm/models, 0.32.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Keys of config.json under which a model with further parts has its language model's settings.
NESTED = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class SixteenBits:
    """The 16-bit dtypes that transformers and vLLM compute a family right in, and those that mlx-lm does.

    why: what is wrong in the others, as a clause; empty where both work.
    """

    dtypes: tuple[str, ...] = ("f16", "bf16")
    mlx: tuple[str, ...] = ("f16", "bf16")
    why: str = ""

    def works(self, dtype: str, target: str) -> bool:
        """Whether models work in a float dtype in a kind of output; more than 16 bits always do."""
        among = {"hf": self.dtypes, "mlx": self.mlx}.get(target)
        return among is None or dtype not in ("f16", "bf16") or dtype in among


BOTH = SixteenBits()
REFUSED = "vLLM refuses it as numerically unstable"
OVERFLOWS = "activations overflow"


def bf16_only(why: str, mlx: tuple[str, ...] = ("bf16",)) -> SixteenBits:
    """Of a family that does not work in float16. mlx: with float16 where mlx-lm's class limits what it adds up."""
    return SixteenBits(("bf16",), mlx, why)


#: mlx-lm's gemma3_text adds to the residual in float32 and clips (clip_residual); gemma3 is made of it.
CLIPPED = ("f16", "bf16")


def model_types(config: Mapping[str, Any]) -> list[str]:
    """The model types that a config.json object names: its own, and its language model's."""
    blocks = [config, *(block for key in NESTED if isinstance(block := config.get(key), Mapping))]
    return [kind for block in blocks if isinstance(kind := block.get("model_type"), str)]
