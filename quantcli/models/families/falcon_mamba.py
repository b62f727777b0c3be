"""The falcon_mamba architecture: mamba with norms without weights on B, C and the time step.

llama.cpp has one epsilon for all norms, the classes have `mixer_rms_eps` for these three; a folder converted from GGUF
gets the file's. Source: llama.cpp's conversion of FalconMambaForCausalLM; mlx-lm's mamba.
"""

from dataclasses import replace

from quantcli.models.families.mamba import MAMBA, NORMS
from quantcli.models.keys import Key
from quantcli.models.stored import Setting, Stored


def _epsilon(file: Stored) -> float | None:
    return file.number("attention.layer_norm_rms_epsilon")


FALCON_MAMBA = replace(
    MAMBA,
    name="falcon_mamba",
    when=lambda metadata: metadata.get(NORMS) is True,
    model_types={"falcon_mamba": {**MAMBA.model_types["mamba"], "mixer_rms_eps": 1e-6}},
    keys=(*MAMBA.keys[:-1], Key(NORMS, "bool", lambda h: True)),
    classes={"falcon_mamba": "FalconMambaForCausalLM"},
    settings=(
        *MAMBA.settings,
        Setting("mixer_rms_eps", _epsilon),
    ),
    # Releases have 1e-6, with which llama.cpp's logits differ by 1e-5.
    expects=(Setting("mixer_rms_eps", lambda file: (_epsilon(file), 1e-6)),),
)
