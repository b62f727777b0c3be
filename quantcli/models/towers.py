"""Names of tensors in towers for images, sound and speech, which no table describes.

Sources: the names of transformers' models; mlx-vlm's `skip_multimodal_module`; llm-compressor's examples (`ignore`).
"""

from __future__ import annotations

import re

#: Names of towers for images, sound and speech, and of modules that connect them to the text model. Encoders are not
#: among them: text models have encoders too.
TOWERS = re.compile(
    r"vision|visual|image|img_|video|audio|speech|whisper|sound|acoustic|vocoder|codec|conformer|vae|2wav|wav2|wavlm"
    r"|multi_?modal|modality|mm_projector|connector|aligner|resampler|perceiver|patch_embed|patch_merge|sam_model"
    r"|(?:^|\.)(?:vit|clip|siglip|talker|q_?former)\w*\."
    r"|(?:^|\.)(?:vpm|apm|tpm|dpm|tts|vte|mimi|perception|projector|gen_head)\."
    r"|^(?:model\.)?(?:mlp1|glm_projection|linear_proj\w*)\."
)


def is_tower(name: str) -> bool:
    """Return whether a tensor that no table knows is part of a tower, or connects one to the text model."""
    return TOWERS.search(name) is not None
