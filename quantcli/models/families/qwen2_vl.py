"""The qwen2vl architecture: the text models of Qwen2-VL and Qwen2.5-VL, which are Qwen2's with M-RoPE.

For text, M-RoPE equals the default rotary embedding, so that a folder converted from GGUF (without a tower) is Qwen2's.
Source: llama.cpp's conversion of Qwen2VLForConditionalGeneration and Qwen2_5_VLForConditionalGeneration.
"""

from dataclasses import replace

from quantcli.models.families.qwen2 import DEFAULTS, QWEN2
from quantcli.models.keys import FREQ_BASE, HEAD_SIZES, RMS_EPS, ROPE, SECTIONS, SIZES
from quantcli.models.limits import unknown_to_mlx
from quantcli.models.multimodal import Multimodal, Spelling

#: Defaults of the text models' classes.
WITH_TOWERS = {**DEFAULTS, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6}
#: mlx-lm's prefix of the text model's names.
MLX = "language_model."
FLAT = Spelling("model.", "visual.")

QWEN2_VL = replace(
    QWEN2,
    name="qwen2_vl",
    gguf="qwen2vl",
    model_types={"qwen2": DEFAULTS, "qwen2_5_vl_text": WITH_TOWERS, "qwen2_vl_text": WITH_TOWERS},
    keys=(*SIZES, *ROPE[:-1], SECTIONS, FREQ_BASE, RMS_EPS, *HEAD_SIZES),
    aliases=(),
    limits=tuple(unknown_to_mlx("qwen2_vl", kind, nested=True) for kind in ("qwen2_5_vl_text", "qwen2_vl_text")),
    mlx_keys=("rms_norm_eps", "num_key_value_heads", "max_position_embeddings", "rope_theta"),
    multimodal=(
        Multimodal("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text", mlx=MLX, spelling=FLAT),
        Multimodal("qwen2_vl", "Qwen2VLForConditionalGeneration", "qwen2_vl_text", mlx=MLX, spelling=FLAT),
    ),
)
