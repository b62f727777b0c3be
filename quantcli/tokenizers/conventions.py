"""What llama.cpp's converter does with one architecture's vocabularies beside the rules that hold for all.

An architecture's record names one of these. Source: `set_vocab` of the classes in llama.cpp's conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Conventions:
    """The conventions of one architecture.

    pre: llama.cpp's names that its pre-tokenizers go by, where several names share one rule. texts: role (as GGUF
    spells it) -> the added token that has it, whatever the files say. ids: role -> id, written as it is, after all
    else. keys: role -> the key of config.json whose id has it, whatever the tokenizer's files say. ranked: hidden_size
    of a model -> role -> id, whatever the files say, where the vocabulary is a file of ranks (tiktoken). space_prefix:
    what is written as `add_space_prefix`, after all else; None: by the common rules. multiple: the number of tokens
    is rounded up to it. strips: blanks behind special tokens are dropped, which GGUF cannot express (of
    SentencePiece vocabularies). padding_side: the side on which the family's published tokenizers pad a batch, by
    their tokenizer_config.json or the class in transformers that it names; None: left of SentencePiece
    vocabularies, whose classes (LlamaTokenizer, GemmaTokenizer) say so, else not known.
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
#: Command R and Command R7B: CohereTokenizer pads on the left.
COHERE = Conventions(padding_side="left")
#: Kimi K2 and Moonlight are models of this family; DeepSeek's own have a tokenizer.json.
DEEPSEEK_V3 = Conventions(pre=("kimi-k2",))
EXAONE4 = Conventions(pre=("exaone4",))
#: The ids of CodeGemma; in Gemma's own vocabulary 107 is `<end_of_turn>`.
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
#: Of the 7B alone config.json names another token as the first; its vocabulary is the one in hy.tiktoken.
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
