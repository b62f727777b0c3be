"""16-bit dtypes in which models without a table work (see `sixteen_bits`)."""

from collections.abc import Mapping

from quantcli.models.sixteen_bits import CLIPPED, OVERFLOWS, REFUSED, SixteenBits, bf16_only

AS_GEMMA_2, AS_GEMMA_3, AS_GLM_4 = (
    f"they have the layers of {name}, which vLLM does not run in float16 because it is numerically unstable"
    for name in ("gemma2", "gemma3", "glm4")
)

#: Model type -> the dtypes; types that are not listed work in both.
UNTABLED: Mapping[str, SixteenBits] = {
    "gemma3": bf16_only(REFUSED, CLIPPED),
    # unsloth (unsloth_zoo/model_lists.py, FORCE_FLOAT32: activations beyond float16), unsloth-zoo#600 (gemma4).
    **dict.fromkeys(
        ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"),
        bf16_only(OVERFLOWS),
    ),
    "plamo2": bf16_only(REFUSED),
    # Other names of these decoders, by transformers' classes (models/<type>/modular_*.py) and vLLM's. PaliGemma's is
    # Gemma's unless text_config names gemma2; VaultGemma and RecurrentGemma have no norms after each block.
    # Gemma 2's layers and weights, as encoder and decoder:
    **dict.fromkeys(("t5gemma", "t5_gemma_module"), bf16_only(AS_GEMMA_2)),
    # Gemma 3's:
    **dict.fromkeys(
        ("t5gemma2", "t5gemma2_text", "t5gemma2_encoder", "t5gemma2_decoder", "shieldgemma2"), bf16_only(AS_GEMMA_3)
    ),
    # GLM-4-0414's; vLLM runs it as Glm4ForCausalLM (models/glm4_1v.py).
    "glm4v": bf16_only(AS_GLM_4),
    # T5 was trained in bfloat16; transformers keeps `wo` in float32 and clamps hidden states of float16.
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "pop2piano", "udop", "switch_transformers"), bf16_only(OVERFLOWS)),
}
