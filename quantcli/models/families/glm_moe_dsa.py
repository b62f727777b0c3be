"""The glm_moe_dsa architecture (GLM-5): deepseek_v32 with GLM's vocabulary, and with layers that have no indexer.

Such a layer (GLM-5.2) attends to the tokens that the last indexer before it selected.

Source: llama.cpp's conversion of GlmMoeDsaForCausalLM, its src/models/glm-dsa.cpp; mlx-lm's glm_moe_dsa; transformers'
GlmMoeDsaConfig.
"""

from dataclasses import replace

from quantcli.containers.json_text import LONGEST, Reader
from quantcli.errors import BadInput
from quantcli.models.families.deepseek import DEEPSEEK_V3, V3_DEFAULTS
from quantcli.models.families.deepseek_v32 import DEEPSEEK_V32, SPARSE_DEFAULTS, indexer
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import Key
from quantcli.models.limits import Limit, unset
from quantcli.models.rope_settings import parameters
from quantcli.models.sizes import Need
from quantcli.models.stored import OMITTED, Setting, Stored
from quantcli.tokenizers import conventions

FULL = {True: "full", False: "shared"}
TYPES = "attention.indexer.types"
#: The least context with which llama.cpp treats a file without `TYPES` as GLM-5.2.
LONG_CONTEXT = 1 << 20


def _indexer_types(config: Reader) -> list[str]:
    """Return which layers have an indexer: from a pattern of letters, or the first ones and then one per period."""
    layers, pattern = config.integer("num_hidden_layers", most=LONGEST), config.values.get("index_topk_pattern")
    if isinstance(pattern, str):
        return [FULL[letter == "F"] for letter in pattern]
    if pattern is not None:
        return list(config.texts("index_topk_pattern"))
    step = max(config.integer("index_topk_freq", 1, least=0), 1)
    first = config.integer("index_skip_topk_offset", 2, least=0)
    return [FULL[max(layer - first + 1, 0) % step == 0] for layer in range(layers)]


def _has_indexer(h: Hyperparameters, layer: int) -> bool:
    kinds = h.settings.texts("indexer_types")
    return layer >= len(kinds) or kinds[layer] == "full"


def _flags(h: Hyperparameters) -> tuple[bool, ...]:
    kinds = h.settings.texts("indexer_types")
    if len(kinds) > h.layers:
        raise h.settings.refuse("indexer_types", f"expected {h.layers} values, one for each layer")
    return tuple(kind == "full" for kind in kinds)


def _stored_types(file: Stored) -> list[str]:
    """Return `indexer_types` from a file; if it has none, llama.cpp's default. Raises `BadInput`."""
    types = file.own.flags(TYPES)
    if types and len(types) not in (file.trunk, file.layers - file.counted):
        raise BadInput(f"{file.own.label}: {TYPES}: expected {file.layers} values (block_count), found {len(types)}.")
    is_short = file.integer("context_length") < LONG_CONTEXT
    usual = [is_short or layer < 2 or layer % 4 == 2 for layer in range(file.trunk)]
    return [FULL[full] for full in types or usual]


GLM_MOE_DSA = replace(
    DEEPSEEK_V32,
    name="glm_moe_dsa",
    gguf="glm-dsa",
    model_types={
        "glm_moe_dsa": V3_DEFAULTS
        | SPARSE_DEFAULTS
        | {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 202752,
            "q_lora_rank": 2048,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "n_group": 1,
            "topk_group": 1,
            "index_n_heads": 32,
            "indexer_types": _indexer_types,
            "moe_layer_freq": 1,
            "topk_method": "noaux_tc",
            "attention_bias": False,
            "num_key_value_heads": lambda config: config.integer("num_attention_heads"),
        }
    },
    tensors=(*DEEPSEEK_V3.tensors, *indexer(Need("indexer_types", _has_indexer))),
    further=(
        *DEEPSEEK_V32.further,
        Key(TYPES, "array[bool]", _flags),
    ),
    classes={"glm_moe_dsa": "GlmMoeDsaForCausalLM"},
    expects=(*DEEPSEEK_V32.expects[:-2], Setting("indexer_rope_interleave", True), DEEPSEEK_V32.expects[-1]),
    settings=(
        *DEEPSEEK_V32.settings,
        Setting("indexer_types", _stored_types),
        Setting("rope_parameters", parameters()),
        Setting("rope_scaling", OMITTED),
        Setting("rope_theta", OMITTED),
    ),
    vocabulary=conventions.GLM4_MOE,
    limits=(
        *unset("gguf", "attention_bias"),
        Limit("mlx", lambda h: "shared" not in h.settings.texts("indexer_types"), "an indexer in every layer"),
    ),
    mlx_keys=(
        *DEEPSEEK_V32.mlx_keys,
        "attention_bias",
        "index_head_dim",
        "index_n_heads",
        "index_topk",
        "kv_lora_rank",
        "moe_layer_freq",
        "norm_topk_prob",
        "num_key_value_heads",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "rms_norm_eps",
        "scoring_func",
        "topk_method",
        "v_head_dim",
    ),
)
