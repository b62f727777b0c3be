"""Tiny models of every family: metadata as llama.cpp's converter wrote it, and config.json rebuilt from it.

The data (`tests/data/arch`) are configs in three spellings (as published; as transformers 5 saves it; without every key
that its configuration class assumes anyway) and what llama.cpp's converter made of the model: metadata, tensors, the
values of those that it computed.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput, NotPossible
from quantcli.models import (
    FAMILIES,
    Architecture,
    Hyperparameters,
    by_gguf,
    config_from_gguf,
    find,
    from_gguf,
    mlx_keys,
    sampling_from_gguf,
    text_settings,
)
from quantcli.targets.gguf_metadata import keys
from tests.peers.arch_cases import A13B_KEYS

DATA = Path(__file__).resolve().parent.parent.parent / "data" / "arch"
CASES = sorted(path.name for path in DATA.iterdir())
SPELLINGS = ("config.json", "config-v5.json", "config-minimal.json")

#: Keys that name the file or its making, and those that no reader of the model looks at.
UNREAD = {
    "architectures", "transformers_version", "model_type", "torch_dtype", "dtype", "quantization_config", "ep_size",
    "seq_aux", "aux_loss_alpha", "order_of_interleaved_layers", "position_embedding_type", "layer_switch",
    "use_embedding_sharing", "use_gated_activation", "use_parallel_block", "use_parallel_embedding", "resid_pdrop",
    "initializer_range", "model_max_length", "qk_head_dim", "_sliding_window_pattern", "qkv_bias", "bias",
    "rope_scaling", "rope_theta", "pretraining_tp", "mlp_bias", "router_aux_loss_coef", "output_router_logits",
    "pad_token_id", "bos_token_id", "eos_token_id", "attn_output_gate", "mamba_ssm_dtype", "use_cache",
    "mtp_use_dedicated_embeddings", "vision_config", "audio_config", "image_token_id", "video_token_id",
}  # fmt: skip
#: What GGUF does not say of a case: a window or a context that llama.cpp has no key for, a layer that is left out.
HUNYUAN = {"max_position_embeddings", "attention_head_dim"}
HUNYUAN_MOE = HUNYUAN | {"cla_share_factor", "moe_layer_num_skipped", "use_cla", "use_mixed_mlp_moe"}
MINIMAX = {"num_mtp_modules", "qk_norm_type", "scoring_func", "shared_intermediate_size"}
UNSAID = {
    "afmoe": {"load_balance_coeff"},
    "afmoe_tied": {"load_balance_coeff"},
    "deepseek_v3": {"num_nextn_predict_layers"},
    "dots1": {"topk_method"},
    "dots1_biased": {"topk_method"},
    "ernie4_5_moe": {"moe_capacity"},
    "ernie4_5_moe_untied": {"moe_capacity"},
    "falcon": {"max_position_embeddings"},
    "falcon_raw": {"max_position_embeddings"},
    "mixtral_window": {"sliding_window"},
    "mistral_plain": {"sliding_window"},
    "qwen2_window": {"sliding_window", "use_sliding_window", "max_window_layers"},
    "starcoder2": {"sliding_window"},
    "cohere": {"max_position_embeddings"},
    "exaone_moe": {"sliding_window_pattern", "topk_method"},
    "exaone_moe_mtp": {"sliding_window_pattern", "topk_method"},
    "glm4v": {"rope_parameters"},
    "hunyuan_a13b": HUNYUAN_MOE
    | {*A13B_KEYS, "attention_dropout", "eod_token_id", "norm_topk_prob", "sep_token_id", "use_cache"},
    "hunyuan_dense": HUNYUAN,
    "hunyuan_dense_biased": HUNYUAN,
    "hunyuan_moe": HUNYUAN_MOE,
    "hunyuan_moe_tied": HUNYUAN_MOE,
    "hy_v3": {"first_k_dense_replace", "moe_router_enable_expert_bias"},
    "hy_v3_tied": {"first_k_dense_replace", "moe_router_enable_expert_bias"},
    "kimi_k2": {"attention_dropout", "auto_map", "use_cache"},
    "mellum": {"num_local_experts"},
    "mellum_biased": {"num_local_experts"},
    "minimax_m2": MINIMAX,
    "minimax_m2_deep": MINIMAX,
    "qwen3_vl": {"deepstack_visual_indexes"},
    "qwen3_vl_biased": {"deepstack_visual_indexes"},
    "qwen3_vl_moe": {"deepstack_visual_indexes"},
    "qwen3_vl_moe_tied": {"deepstack_visual_indexes"},
}
#: The family of a text model by itself, where that is another than the one it is of in a model with towers.
BY_ITSELF = {
    "mistral3": "llama", "qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe",
    "qwen3_vl_biased": "qwen3", "qwen3_vl_moe_tied": "qwen3_moe",
}  # fmt: skip
#: Keys of metadata that a text model by itself does without.
OF_TOWERS = ("rope.dimension_sections", "n_deepstack_layers")
#: Cases whose context does not come back, and whose settings of yarn their kind of scaling does without.
SCALED = ("hunyuan_a13b", "hunyuan_dense", "hunyuan_dense_biased", "hunyuan_moe", "hunyuan_moe_tied")


def whole_config(case: str, spelling: str = "config.json") -> dict[str, Any]:
    """A case's settings in a spelling, or in that of config.json where it is said in no other."""
    path = DATA / case / spelling
    config: dict[str, Any] = json.loads((path if path.is_file() else path.with_name("config.json")).read_text())
    return config


def config_of(case: str, spelling: str = "config.json") -> dict[str, Any]:
    """The settings of a case's text model in a spelling: all of them where it has no towers."""
    return dict(text_settings(whole_config(case, spelling)))


def reference(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / case / "reference.json").read_text())
    return found


def family(config: Mapping[str, Any]) -> Architecture:
    architecture = find(config)
    assert architecture is not None
    return architecture


def own(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The keys that do not come from the folder's name, its card or its tokenizer."""
    named = ("general.architecture", "general.type", "general.file_type", "general.quantization_version")
    return {key: value for key, value in metadata.items() if key.startswith(f"{name}.") or key in named}


def written(hyperparameters: Hyperparameters, file_type: int = 32) -> dict[str, Any]:
    """Metadata as a reference spells it."""
    made = keys(hyperparameters, None, {}, file_type, False)
    return {
        key: [
            f"ARRAY:{kind[6:-1].upper()}" if kind.startswith("array") else kind.upper(),
            float(np.float32(value)) if kind == "float32" else list(value) if isinstance(value, tuple) else value,
        ]
        for key, (kind, value) in made.items()
    }


def rebuilt(case: str) -> dict[str, Any]:
    stored = reference(case)
    metadata = {key: value for key, (_, value) in stored["metadata"].items()}
    shapes = {name: tuple(shape) for name, (_, shape) in stored["tensors"].items()}
    return config_from_gguf(metadata, shapes, stored["values"].__getitem__, "bf16")


def test_every_table_has_a_case_with_tensors() -> None:
    """tests/peers/make_arch.py writes one."""
    with_tensors = [case for case in CASES if (DATA / case / "tensors.json").is_file()]
    have = {family(config_of(case)).name for case in with_tensors}
    assert {table.name for table in FAMILIES} == have


def counted(case: str, config: dict[str, Any]) -> dict[str, Any]:
    """The settings with the number of layers for multi-token prediction, which may be left to the tensors."""
    tensors = DATA / case / "tensors.json"
    names = json.loads(tensors.read_text())["source"] if tensors.is_file() else ()
    stored = sum(name.endswith(("eh_proj.weight", "mtp.fc.weight")) for name in names)
    return {"num_nextn_predict_layers": stored, **config} if family(config).mtp and stored else config


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("case", CASES)
def test_metadata_as_the_converter_writes_it(case: str, spelling: str) -> None:
    config = counted(case, config_of(case, spelling))
    wanted = reference(case)["metadata"]
    made = written(family(config).hyperparameters(config), wanted.get("general.file_type", [0, 32])[1])
    theirs = own(wanted, wanted["general.architecture"][1])
    assert made == theirs
    assert list(made) == list(theirs)


@pytest.mark.parametrize("case", CASES)
def test_both_files_of_a_case_mean_the_same(case: str) -> None:
    first, second = (config_of(case, spelling) for spelling in SPELLINGS[:2])
    assert family(first) is family(second)
    ours, theirs = (family(config).hyperparameters(counted(case, config)) for config in (first, second))
    if case in SCALED:  # published with settings of yarn, which this kind of scaling does without
        ours, theirs = settled(ours), settled(theirs)
    assert ours == theirs


@pytest.mark.parametrize("case", CASES)
def test_a_rebuilt_config_makes_the_same_metadata(case: str) -> None:
    config = rebuilt(case)
    metadata = reference(case)["metadata"]
    wanted = own(metadata, metadata["general.architecture"][1])
    made = written(family(config).hyperparameters(config), metadata.get("general.file_type", [0, 32])[1])
    if case in BY_ITSELF:
        name = metadata["general.architecture"][1]
        gguf = next(table.gguf for table in FAMILIES if table.name == BY_ITSELF[case])
        wanted = {key.replace(f"{name}.", f"{gguf}.", 1): value for key, value in wanted.items()}
        wanted = {key: value for key, value in wanted.items() if not key.endswith(OF_TOWERS)}
        wanted["general.architecture"] = ["STRING", gguf]
    if case in ("exaone4_small", "glm4v"):  # mlx-lm has to be told the size of a head, which these leave to follow
        made = {key: value for key, value in made.items() if key in wanted}
    assert made == wanted


@pytest.mark.parametrize("case", CASES)
def test_a_rebuilt_config_says_what_the_class_does_not_assume(case: str) -> None:
    made = rebuilt(case)
    wanted = config_of(case, "config-minimal.json")
    missed = {
        key: (value, made.get(key))
        for key, value in wanted.items()
        if key not in UNREAD | UNSAID.get(case, set()) and not same(made.get(key), value)
    }
    assert not missed
    assert made["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("case", CASES)
def test_a_rebuilt_config_means_the_same(case: str) -> None:
    config, made = config_of(case), rebuilt(case)
    ours, theirs = family(made).hyperparameters(made), family(config).hyperparameters(counted(case, config))
    assert family(made).name == BY_ITSELF.get(case, family(config).name)
    if case in BY_ITSELF:
        theirs = replace(theirs, architecture=ours.architecture, rope=replace(theirs.rope, sections=()))
    if case in ("falcon", "falcon_raw", *SCALED):
        context = theirs.context_length
        ours = replace(ours, context_length=context, rope=replace(ours.rope, original_context=context))
    assert settled(ours) == settled(theirs)


@pytest.mark.parametrize("case", CASES)
def test_rotary_settings_by_kind_of_layer_stand_alone(case: str) -> None:
    """transformers takes flat settings instead, where config.json has both."""
    made = rebuilt(case)
    if any(isinstance(one, dict) for one in made.get("rope_parameters", {}).values()):
        assert not {"rope_scaling", "rope_theta", "rope_local_base_freq"} & {*made, *mlx_keys(made)}


def settled(h: Hyperparameters) -> Hyperparameters:
    """Without what GGUF has no key for, and with float32's numbers."""
    rope = h.rope
    if rope.type in ("dynamic", "llama3"):  # the first has no key, the second no single set of numbers
        rope = replace(rope, type="default", factor=None, original_context=h.context_length)
        rope = replace(rope, low_freq_factor=None, high_freq_factor=None)
        rope = replace(rope, beta_fast=None, beta_slow=None, mscale_all_dim=None)
    numbers = {name: value for name, value in vars(rope).items() if isinstance(value, float)}
    rope = replace(rope, **{name: float(np.float32(value)) for name, value in numbers.items()})
    return replace(h, rope=rope, sliding_window=None, states_head_dim=False)


def same(made: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(made, float):
        return bool(np.float32(made) == np.float32(wanted))
    if isinstance(wanted, dict) and isinstance(made, dict):  # scaling has its kind under two names
        return all(same(made.get(key), value) for key, value in wanted.items() if key != "max_position_embeddings")
    if isinstance(wanted, int) and isinstance(made, str):  # a pattern, a letter for each layer
        return made == ("L" * (wanted - 1) + "G") * (len(made) // wanted)
    return bool(made == wanted)


@pytest.mark.parametrize("case", CASES)
def test_computed_tensors_are_the_converters(case: str) -> None:
    config = config_of(case)
    architecture = family(config)
    hyperparameters = architecture.hyperparameters(config)
    made = {row.gguf: row.values(hyperparameters) for row in architecture.computed}
    there = {name: values.tolist() for name, values in made.items() if values is not None}
    assert there == reference(case)["values"]


#: Families whose factors the converter computes in double precision: settings are fitted to them but for the last bit.
IN_DOUBLE = ("step3p5",)


@pytest.mark.parametrize("case", CASES)
def test_rope_settings_give_the_same_factors(case: str) -> None:
    made = rebuilt(case)
    architecture = family(made)
    hyperparameters = architecture.hyperparameters(made)
    values = {row.gguf: row.values(hyperparameters) for row in architecture.computed}
    for name, wanted in reference(case)["values"].items():
        factors = values[name]
        assert factors is not None
        if architecture.name in IN_DOUBLE:
            assert np.allclose(factors, wanted, rtol=2.0**-23, atol=0)
        else:
            assert factors.tolist() == wanted


def test_published_numbers_come_first() -> None:
    wanted = {"rope_type": "llama3", "type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    wanted["original_max_position_embeddings"] = 8192
    assert rebuilt("llama_llama3rope")["rope_scaling"] == wanted | {"factor": 8.0}
    assert rebuilt("llama32")["rope_scaling"] == wanted | {"factor": 32.0}
    assert rebuilt("exaone4")["rope_scaling"] == wanted | {"factor": 16.0}


def test_families_that_share_a_name_are_told_apart() -> None:
    kinds = {case: rebuilt(case)["model_type"] for case in CASES}
    assert (kinds["llama"], kinds["mistral"], kinds["internlm3"], kinds["mixtral"]) == ("llama",) * 3 + ("mixtral",)
    assert (kinds["olmo2"], kinds["olmo3"]) == ("olmo2", "olmo3")
    assert (kinds["deepseek_v2"], kinds["deepseek_v3"]) == ("deepseek_v2", "deepseek_v3")


def test_deepseek_without_a_gating_function_goes_through_a_softmax_as_in_llama_cpp() -> None:
    metadata = {key: value for key, (_, value) in reference("deepseek_v3")["metadata"].items()}
    found = by_gguf({key: value for key, value in metadata.items() if not key.endswith("gating_func")})
    assert found is not None
    assert found.name == "deepseek_v2"


def test_sampling() -> None:
    def made(case: str) -> dict[str, Any]:
        return sampling_from_gguf({k: v for k, (_, v) in reference(case)["metadata"].items()})

    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    assert made("qwen2") == sampling
    assert made("llama") == {}
    more = {"general.sampling.xtc_probability": 0.5, "general.sampling.mirostat": 2, "general.sampling.sequence": "k;p"}
    wanted = {"xtc_probability": 0.5, "mirostat": 2, "sequence": "k;p", "do_sample": True}
    assert sampling_from_gguf({"general.architecture": "llama"} | more) == wanted


def test_metadata_alone_gives_hyperparameters() -> None:
    metadata = {key: value for key, (_, value) in reference("llama_llama3rope")["metadata"].items()}
    found = from_gguf(metadata, "a.gguf", {"rope_freqs.weight": (16,), "token_embd.weight": (384, 64)})
    assert (found.heads, found.vocab_size, found.tie_embeddings, found.rope.type) == (4, 384, True, "default")


def test_what_a_file_lacks_is_named() -> None:
    metadata = {key: value for key, (_, value) in reference("llama")["metadata"].items()}
    del metadata["llama.block_count"]
    with pytest.raises(BadInput, match=r"a\.gguf: llama: block_count is missing"):
        config_from_gguf(metadata, {}, where="a.gguf")
    with pytest.raises(NotPossible, match="'rwkv9' is not supported"):
        config_from_gguf({"general.architecture": "rwkv9"}, {})
    with pytest.raises(BadInput, match=r"general\.architecture is missing"):
        config_from_gguf({}, {})


def test_a_pattern_has_a_value_for_each_layer() -> None:
    stored = reference("olmo3")
    metadata = {key: value for key, (_, value) in stored["metadata"].items()}
    metadata["olmo2.attention.sliding_window_pattern"] = [True]
    with pytest.raises(BadInput, match=r"sliding_window_pattern: .* 4 .*block_count.* 1\."):
        config_from_gguf(metadata, {"token_embd.weight": (384, 64)})
