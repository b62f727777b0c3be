"""Model types in config.json that are other names of a family's type: same tensors, settings and computation.

Sources: mlx-lm (mlx_lm/utils.py, MODEL_REMAPPING), llama.cpp's converters (`ModelBase.register` in conversion/), which
list the classes of these types next to the family's.
"""

#: Model type -> the type that a family's table has.
ALIASES = {
    "iquestcoder": "llama",
    "joyai_llm_flash": "deepseek_v3",
    "xverse": "llama",
}
