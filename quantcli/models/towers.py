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


def has_channels_last(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a weight is a square convolution's kernel as MLX has it: its channels come last.

    mlx-vlm stores them so; it tells them by their shape, too.

    >>> has_channels_last("proj.weight", (64, 14, 14, 3)), has_channels_last("proj.weight", (64, 3, 14, 14))
    (True, False)
    >>> has_channels_last("proj.weight", (64, 2, 14, 14, 3)), has_channels_last("proj.weight", (64, 3, 2, 14, 14))
    (True, False)
    """
    return name.endswith(".weight") and len(shape) in (4, 5) and shape[-3] == shape[-2] != shape[-1]
