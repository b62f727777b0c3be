"""Rules of llama.cpp's converter for single architectures' vocabularies, in addition to the common ones.

An architecture's record names one of these. Source: `set_vocab` of the classes in llama.cpp's conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Conventions:
    """The rules for one architecture.

    Roles have GGUF's names.
    pre: llama.cpp's names of its pre-tokenizers, if several names share one rule.
    texts: role -> the added token with that role, if the tokenizer's files name none.
    ids: role -> id, which overrides all else.
    keys: role -> the key of config.json whose id overrides the tokenizer's files.
    ranked: a model's hidden_size -> role -> id, which overrides the files for vocabularies of ranks (tiktoken).
    space_prefix: the value of `add_space_prefix`, which overrides all else; None: by the common rules.
    multiple: the number of tokens is rounded up to a multiple of it.
    strips: spaces after special tokens are dropped, which GGUF cannot express (SentencePiece vocabularies).
    padding_side: the side on which the family's published tokenizers pad a batch, from their tokenizer_config.json or
        its class in transformers; None: left for SentencePiece vocabularies (LlamaTokenizer, GemmaTokenizer), else
        unknown.
    """

    pre: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    ranked: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    space_prefix: bool | None = None
    multiple: int = 1
    strips: bool = False
    padding_side: str | None = None


PLAIN = Conventions()
BAILING_MOE_V2 = Conventions(pre=("bailingmoe2",))
#: Command R and Command R7B; CohereTokenizer pads on the left.
COHERE = Conventions(padding_side="left")
#: Kimi K2 and Moonlight are models of this family; DeepSeek's models have a tokenizer.json.
DEEPSEEK_V3 = Conventions(pre=("kimi-k2",))
EXAONE4 = Conventions(pre=("exaone4",))
#: CodeGemma's ids; in Gemma's vocabulary 107 is `<end_of_turn>`.
GEMMA = Conventions(ids={"eot": 107}, space_prefix=False)
#: Gemma 2 and 3.
GEMMA2 = Conventions(space_prefix=False)
GLM4 = Conventions(
    pre=("glm4", "chatglm-bpe"),
    texts={"eos": "<|endoftext|>", "eot": "<|user|>", "unknown": "<|endoftext|>", "bos": "<|endoftext|>"},
    padding_side="left",
)
GLM4_MOE = Conventions(
    pre=("glm4",),
    texts={"bos": "[gMASK]", "eot": "<|user|>", "unknown": "<|endoftext|>", "eom": "<|observation|>"},
    padding_side="left",
)
GPT_NEOX = Conventions(pre=("mpt",))
GRANITE = Conventions(pre=("refact",))
#: Only the 7B has another first token in config.json; its vocabulary is the one in hy.tiktoken.
HUNYUAN_DENSE = Conventions(pre=("hunyuan-dense",), keys={"eos": "eod_token_id"}, ranked={4096: {"bos": 127958}})
HUNYUAN_MOE = Conventions(pre=("hunyuan",), ids={"bos": 127959})
LAGUNA = Conventions(pre=("laguna",))
MAMBA = Conventions(pre=("mpt",), multiple=8)
MELLUM = Conventions(pre=("mellum2",))
MINIMAX_M2 = Conventions(pre=("minimax-m2",))
NEMOTRON = Conventions(ids={"padding": 0, "unknown": 1}, padding_side="right")
OLMO = Conventions(pre=("olmo", "dbrx"))
PHI3 = Conventions(strips=True)
SOLAR_OPEN = Conventions(
    pre=("solar-open",),
    texts={"eos": "<|endoftext|>", "eot": "<|endoftext|>", "unknown": "<unk>", "bos": "<|startoftext|>"},
)
STABLELM = Conventions(pre=("stablelm2",))
STARCODER2 = Conventions(pre=("starcoder",))
