"""The llama architecture: Llama, Mistral, InternLM 3 and models published under their types (Yi, SmolLM ...).

Source: llama.cpp's conversion of LlamaForCausalLM, MistralForCausalLM and InternLM3ForCausalLM; transformers'
configuration defaults.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantcli.models.base import EVERY_KIND, Architecture, Computed
from quantcli.models.decoder import PERMUTED, decoder
from quantcli.models.hyperparameters import Hyperparameters, even_share
from quantcli.models.keys import ROPE_DIMENSIONS, VOCAB_SIZE
from quantcli.models.limits import square
from quantcli.models.multimodal import Multimodal
from quantcli.models.rope import llama3_factors
from quantcli.models.sizes import FREQUENCIES, Need
from quantcli.models.stored import Setting, has


def rope_factors(hyperparameters: Hyperparameters) -> NDArray[np.float32] | None:
    """Return Llama 3.1's divisor of each rotary frequency, float32 [head_dim / 2]; None for other rope types."""
    return llama3_factors(hyperparameters.rope, hyperparameters.head_dim)


ROPE_FREQS = Computed("rope_freqs.weight", rope_factors, (FREQUENCIES,))


def _bias(**flags: str) -> Need:
    """Return the condition for biases: each model type's flag; Mistral's classes have no biases."""

    def holds(h: Hyperparameters, layer: int) -> bool:
        key = flags.get(h.settings.text("model_type", "llama"))
        return key is not None and h.settings.flag(key, False)

    return Need(flags["llama"], holds, by_presence=True)


#: Prefixes in mlx-vlm's folders of Idefics 3 and SmolVLM -> in releases.
IDEFICS = {
    "language_model.lm_head.": "lm_head.",
    "language_model.": "model.text_model.",
    "vision_model.": "model.vision_model.",
    "connector.": "model.connector.",
}
#: Defaults of Voxtral's class for its text model.
VOXTRAL = {
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_theta": 1e8,
}

LLAMA = Architecture(
    name="llama",
    gguf="llama",
    model_types={
        "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "head_dim": even_share},
        "internlm3": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 2,
            "head_dim": even_share,
        },
        "mistral": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": even_share,
            "sliding_window": 4096,
        },
    },
    tensors=decoder(
        rotary=PERMUTED,
        bias=_bias(llama="attention_bias", internlm3="qkv_bias"),
        output_bias=_bias(llama="attention_bias", internlm3="bias"),
        mlp_bias=_bias(llama="mlp_bias", internlm3="bias"),
    ),
    computed=(ROPE_FREQS,),
    states_space_prefix=True,
    further=(VOCAB_SIZE, ROPE_DIMENSIONS),
    classes={"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "internlm3": "InternLM3ForCausalLM"},
    aliases=("LLaMAForCausalLM", "LlamaModel", "VLlama3ForCausalLM", "IQuestCoderForCausalLM", "XverseForCausalLM"),
    multimodal=(
        Multimodal("llava", "LlavaForConditionalGeneration", "llama", mlx="language_model."),
        Multimodal("smolvlm", "SmolVLMForConditionalGeneration", "llama", mlx_vlm=IDEFICS),
        Multimodal("idefics3", "Idefics3ForConditionalGeneration", "llama", mlx_vlm=IDEFICS),
        Multimodal("voxtral", "VoxtralForConditionalGeneration", "llama", assumes=VOXTRAL),
    ),
    limits=square("mlx", kind="internlm3"),
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("mlp_bias", has("ffn_up.bias")),
    ),
    mlx_scaling=EVERY_KIND,
    mlx_ties=("llama", "mistral"),
)
