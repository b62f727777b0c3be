"""The registry of model families. To add a family, add a file to this folder (TEMPLATE.md) and two lines here."""

from __future__ import annotations

from quantcli.models.base import Architecture
from quantcli.models.families.afmoe import AFMOE
from quantcli.models.families.arcee import ARCEE
from quantcli.models.families.bailing_moe_v2 import BAILING_MOE_V2
from quantcli.models.families.cohere import COHERE
from quantcli.models.families.cohere2 import COHERE2
from quantcli.models.families.cohere2_moe import COHERE2_MOE
from quantcli.models.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from quantcli.models.families.deepseek_v32 import DEEPSEEK_V32
from quantcli.models.families.dots1 import DOTS1
from quantcli.models.families.ernie4_5 import ERNIE4_5
from quantcli.models.families.ernie4_5_moe import ERNIE4_5_MOE
from quantcli.models.families.exaone4 import EXAONE4
from quantcli.models.families.exaone_moe import EXAONE_MOE
from quantcli.models.families.falcon import FALCON
from quantcli.models.families.falcon_mamba import FALCON_MAMBA
from quantcli.models.families.gemma import GEMMA
from quantcli.models.families.gemma2 import GEMMA2
from quantcli.models.families.gemma3 import GEMMA3
from quantcli.models.families.glm4 import GLM4
from quantcli.models.families.glm4_moe import GLM4_MOE
from quantcli.models.families.glm4_moe_lite import GLM4_MOE_LITE
from quantcli.models.families.glm_moe_dsa import GLM_MOE_DSA
from quantcli.models.families.gpt_neox import GPT_NEOX
from quantcli.models.families.gpt_oss import GPT_OSS
from quantcli.models.families.granite import GRANITE
from quantcli.models.families.granitemoe import GRANITEMOE
from quantcli.models.families.hunyuan_v1_dense import HUNYUAN_V1_DENSE
from quantcli.models.families.hunyuan_v1_moe import HUNYUAN_V1_MOE
from quantcli.models.families.hy_v3 import HY_V3
from quantcli.models.families.laguna import LAGUNA
from quantcli.models.families.llama import LLAMA
from quantcli.models.families.mamba import MAMBA
from quantcli.models.families.mellum import MELLUM
from quantcli.models.families.mimo_v2_flash import MIMO_V2_FLASH
from quantcli.models.families.minimax_m2 import MINIMAX_M2
from quantcli.models.families.mistral3 import MISTRAL3
from quantcli.models.families.mixtral import MIXTRAL
from quantcli.models.families.nemotron import NEMOTRON
from quantcli.models.families.olmo import OLMO
from quantcli.models.families.olmo2 import OLMO2
from quantcli.models.families.olmoe import OLMOE
from quantcli.models.families.phi import PHI
from quantcli.models.families.phi3 import PHI3
from quantcli.models.families.phimoe import PHIMOE
from quantcli.models.families.qwen2 import QWEN2
from quantcli.models.families.qwen2_moe import QWEN2_MOE
from quantcli.models.families.qwen2_vl import QWEN2_VL
from quantcli.models.families.qwen3 import QWEN3
from quantcli.models.families.qwen3_5 import QWEN3_5, QWEN3_5_MOE
from quantcli.models.families.qwen3_moe import QWEN3_MOE
from quantcli.models.families.qwen3_next import QWEN3_NEXT
from quantcli.models.families.qwen3_vl import QWEN3_VL, QWEN3_VL_MOE
from quantcli.models.families.seed_oss import SEED_OSS
from quantcli.models.families.smollm3 import SMOLLM3
from quantcli.models.families.solar_open import SOLAR_OPEN
from quantcli.models.families.stablelm import STABLELM
from quantcli.models.families.starcoder2 import STARCODER2
from quantcli.models.families.step3p5 import STEP3P5

#: Every family. If several have one GGUF name, `Architecture.when` decides, and the one without it is the default; if
#: several have one model type, the first that lists the class in config.json is used.
FAMILIES: tuple[Architecture, ...] = (
    AFMOE,
    ARCEE,
    BAILING_MOE_V2,
    COHERE,
    COHERE2,
    COHERE2_MOE,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    DEEPSEEK_V32,
    DOTS1,
    ERNIE4_5,
    ERNIE4_5_MOE,
    EXAONE4,
    EXAONE_MOE,
    FALCON,
    FALCON_MAMBA,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GLM4,
    GLM4_MOE,
    GLM4_MOE_LITE,
    GLM_MOE_DSA,
    GPT_NEOX,
    GPT_OSS,
    GRANITE,
    GRANITEMOE,
    HUNYUAN_V1_DENSE,
    HUNYUAN_V1_MOE,
    HY_V3,
    LAGUNA,
    LLAMA,
    MAMBA,
    MELLUM,
    MIMO_V2_FLASH,
    MINIMAX_M2,
    MISTRAL3,
    MIXTRAL,
    NEMOTRON,
    OLMO,
    OLMO2,
    OLMOE,
    PHI,
    PHI3,
    PHIMOE,
    QWEN2,
    QWEN2_MOE,
    QWEN2_VL,
    QWEN3,
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_MOE,
    QWEN3_NEXT,
    SEED_OSS,
    QWEN3_VL,
    QWEN3_VL_MOE,
    SMOLLM3,
    SOLAR_OPEN,
    STABLELM,
    STARCODER2,
    STEP3P5,
)
