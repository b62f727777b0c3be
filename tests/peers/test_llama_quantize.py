"""llama-quantize's choices for models made up at random, by dry runs of the library over files of a header alone.

The file's data is a hole: a dry run reads nothing of it.
"""

import ctypes
import os
import random
import re
from pathlib import Path

import pytest

from quantcli.containers import gguf_write
from quantcli.containers.gguf_values import Value
from quantcli.errors import NotPossible
from quantcli.recipes import llama_cpp
from quantcli.recipes.llama_cpp import Facts, Tensor
from tests.peers.pinned import peer

library = peer("llama_cpp")

LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[[^\]]*\], type = +(\S+), size = .*?(?:-> .*\((\S+)\))?$", re.M)
LOG: list[str] = []
KEEP = library.llama_log_callback(lambda level, text, data: LOG.append(text.decode(errors="replace")))

#: Of each architecture the layers tried, among them those that llama.cpp has a rule for.
ARCHITECTURES = {
    "llama": (7, 32, 80),
    "qwen2": (24, 80),
    "deci": (32, 80),
    "olmo": (32, 80),
    "jais2": (32, 68),
    "falcon": (32, 60),
    "qwen3moe": (9, 48),
}


def model(architecture: str, layers: int) -> tuple[dict[str, Value], list[Tensor]]:
    """Metadata and tensors of a model that was never trained."""
    rng = random.Random(f"{architecture} {layers}")
    width = rng.choice((256, 512, 320, 64))
    inner = rng.choice((512, 768, 352))
    heads = rng.choice((8, 16))
    kv_heads = rng.choice((heads, heads // 2, 2))
    stacked = architecture == "qwen3moe" or (architecture == "llama" and rng.random() < 0.5)
    experts = rng.choice((2, 4, 8, 16)) if stacked else 0
    keys = {
        "block_count": layers, "context_length": 64, "embedding_length": width, "feed_forward_length": inner,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "vocab_size": 64,
    }  # fmt: skip
    if experts:
        keys |= {"expert_count": experts, "expert_used_count": 2}
    metadata = {"general.architecture": Value("string", architecture)}
    metadata |= {f"{architecture}.{key}": Value("uint32", value) for key, value in keys.items()}
    for key in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
        metadata[f"{architecture}.attention.{key}"] = Value("float32", 1e-5)
    names: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (64, width)), ("output_norm.weight", (width,))]
    if rng.random() < 0.6:
        names.append(("output.weight", (64, width)))
    parts = ["attn_qkv"] if architecture == "falcon" else ["attn_q", "attn_k", "attn_v"]
    for layer in range(layers):
        block = f"blk.{layer}."
        names += [(f"{block}{part}.weight", (width, width)) for part in (*parts, "attn_output")]
        suffix, first = ("_exps", (experts,)) if experts else ("", ())
        names += [(f"{block}ffn_{part}{suffix}.weight", (*first, inner, width)) for part in ("up", "gate")]
        names.append((f"{block}ffn_down{suffix}.weight", (*first, width, inner)))
        names.append((f"{block}attn_norm.weight", (width,)))
    return metadata, [Tensor(name, shape, "f32" if len(shape) < 2 else "bf16") for name, shape in names]


def dry_run(path: Path, number: int, importance: bool) -> dict[str, str] | None:
    """Tensor -> type, in the order of the run; None where it was refused."""
    params = library.llama_model_quantize_default_params()
    params.ftype, params.dry_run = number, True
    ones = (ctypes.c_float * 4)(1, 1, 1, 1)
    entries = (library.llama_model_imatrix_data * 2)()
    entries[0].name, entries[0].data, entries[0].size = b"blk.0.attn_q.weight", ones, 4
    if importance:
        params.imatrix = entries
    LOG.clear()
    library.llama_log_set(KEEP, None)
    refused = library.llama_model_quantize(str(path).encode(), b"unused.gguf", ctypes.byref(params))
    said = "".join(LOG)
    if refused:
        assert "no tensor type fallback" in said, said[-500:]
        return None
    return {found[1]: (found[3] or found[2]).lower() for found in LINE.finditer(said)}


@pytest.mark.parametrize(("architecture", "layers"), [(a, n) for a, many in ARCHITECTURES.items() for n in many])
def test_as_the_library_chooses(tmp_path: Path, architecture: str, layers: int) -> None:
    metadata, tensors = model(architecture, layers)
    path = tmp_path / "model.gguf"
    start, _, size = gguf_write.header(metadata, [(t.name, t.shape, t.type) for t in tensors])
    path.write_bytes(start)
    os.truncate(path, size)
    for name, ftype in llama_cpp.FTYPES.items():
        for importance in (False, True):
            wanted = dry_run(path, ftype.number, importance)
            facts = Facts.of(metadata, importance)
            if wanted is None:
                with pytest.raises(NotPossible):
                    llama_cpp.assign(tensors, name, facts)
                continue
            assert len(wanted) == len(tensors)
            found = llama_cpp.assign(tensors, name, facts)
            assert {key: decision.scheme for key, decision in found.items()} == wanted, (name, importance)
            assert list(found) == list(wanted)
