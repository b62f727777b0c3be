"""The arcee architecture (AFM 4.5B): llama with an MLP without a gate; mlx-lm does not support it.

Source: llama.cpp's conversion of ArceeForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import PERMUTED, PLAIN, decoder
from quantcli.models.families.llama import ROPE_FREQS
from quantcli.models.hyperparameters import even_share
from quantcli.models.keys import ROPE_DIMENSIONS, VOCAB_SIZE
from quantcli.models.limits import unknown_to_mlx, unset
from quantcli.models.sizes import ATTENTION_BIAS, MLP_BIAS
from quantcli.models.stored import Setting, has

ARCEE = Architecture(
    name="arcee",
    gguf="arcee",
    model_types={"arcee": {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "head_dim": even_share}},
    tensors=decoder(rotary=PERMUTED, mlp=PLAIN, bias=ATTENTION_BIAS, mlp_bias=MLP_BIAS),
    computed=(ROPE_FREQS,),
    states_space_prefix=True,
    further=(VOCAB_SIZE, ROPE_DIMENSIONS),
    classes={"arcee": "ArceeForCausalLM"},
    settings=(
        Setting("hidden_act", "relu2"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("mlp_bias", has("ffn_up.bias")),
    ),
    limits=(*unset("gguf", "attention_bias", "mlp_bias"), unknown_to_mlx("arcee")),
)
