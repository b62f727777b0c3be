"""Settings and tensors that contradict each other are refused for every target, with the tensor and the key's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers.gguf_values import Value
from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.steps import Plan
from quantcli.errors import BadInput, NotPossible
from quantcli.models import FAMILIES, Architecture, Tensor, find, layer_count, unknown_class
from tests.arch_models import architecture_of
from tests.conversions import planned
from tests.convert.test_golden_arch import CASES, reference
from tests.mutations.baselines import Baseline, as_gguf, dense

FOLDERS = ("mlx", "hf")
TARGETS = ("gguf", *FOLDERS)
LAYER = "model.layers.1"


def plan(base: Baseline, target: str, settings: Mapping[str, Any] | None = None, **changed: Any) -> Plan:
    """The plan with settings changed, and with tensors: `changed` names ... -> shape, None: left out."""
    output = Path("never.gguf" if target == "gguf" else "never")
    config = None if settings is None else {**base.settings, **settings}
    return make(base.opened(config, changed.get("tensors")), Request(output=output, to=target))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def qwen2(root: Path) -> Baseline:
    return dense("qwen2", root)


@pytest.fixture(scope="module")
def llama(root: Path) -> Baseline:
    return dense("llama", root)


@pytest.fixture(scope="module")
def llama_gguf(llama: Baseline, root: Path) -> Baseline:
    return as_gguf(llama, root)


@pytest.fixture(scope="module")
def moe(root: Path) -> Baseline:
    return dense("qwen3_moe", root)


@pytest.fixture(scope="module")
def glm(root: Path) -> Baseline:
    return dense("glm4_moe", root)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("key", "other", "tensor"),
    [
        ("hidden_size", 320, r"tensor (lm_head|model\S+)\.weight: .*\[\d+, 320\].*\[\d+, 256\]"),
        ("vocab_size", 431, r"tensor lm_head\.weight: .*\[431, 256\].*\[432, 256\]"),
        (
            "intermediate_size",
            512,
            r"tensor model\.layers\.0\.mlp\.\w+\.weight: .*\[(256, 512|512, 256)\].*\[256, 256\]",
        ),
        (
            "num_attention_heads",
            8,
            r"tensor model\.layers\.0\.self_attn\.[qo]_proj\.weight: .*\[(256, 512|512, 256)\].*\[256, 256\]",
        ),
        (
            "num_key_value_heads",
            4,
            r"tensor model\.layers\.0\.self_attn\.[kv]_proj\.weight: .*\[256, 256\].*\[128, 256\]",
        ),
        ("head_dim", 32, r"tensor model\.layers\.0\.self_attn\.\w+\.weight: .*\[\d+, 256\].*\[\d+, 256\]"),
        ("num_hidden_layers", 1, r"\blayer 1\b.*model\.layers\.1\."),
        ("num_hidden_layers", 3, r"\blayer 2\b"),
    ],
)
def test_a_size_that_the_tensors_have_not_is_refused(
    key: str, other: int, tensor: str, target: str, llama: Baseline
) -> None:
    with pytest.raises(BadInput, match=tensor) as error:
        plan(llama, target, {"head_dim": 64, key: other})
    assert f"{key} is {other}" in str(error.value) or re.search(rf"{key} \* head_dim|\* {key}", str(error.value))


@pytest.mark.parametrize("target", FOLDERS)
@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("embedding_length", 320),
        ("feed_forward_length", 512),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 4),
        ("attention.key_length", 32),
        ("block_count", 1),
        ("block_count", 3),
    ],
)
def test_a_key_of_a_gguf_that_the_tensors_contradict_is_refused(
    key: str, other: int, target: str, llama_gguf: Baseline
) -> None:
    lengths = {f"llama.attention.{n}_length": Value("uint32", 64) for n in ("key", "value")}
    with pytest.raises(BadInput) as error:
        plan(llama_gguf, target, {**lengths, f"llama.{key}": Value("uint32", other)})
    assert f"llama.{key}" in str(error.value) or (key == "embedding_length" and "320" in str(error.value))


@pytest.mark.parametrize("target", FOLDERS)
def test_the_file_whose_head_count_contradicts_its_tensors_is_refused(
    target: str, shared: Path, tmp_path: Path
) -> None:
    file = shared / "field" / "gguf" / "head-count-contradicts-tensors.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    with pytest.raises(
        BadInput, match=r"tensor blk\.0\..*llama\.attention\.head_count \* llama\.attention\.key_length"
    ):
        planned(file, tmp_path / "never", to=target)
    assert planned(file, tmp_path / "copy.gguf", to="gguf").warnings == ()


@pytest.mark.parametrize("target", FOLDERS)
def test_a_vocabulary_that_is_not_the_embedding_s_is_refused(target: str, llama_gguf: Baseline) -> None:
    rows = llama_gguf.shapes["token_embd.weight"][0]
    cut = {
        "token_embd.weight": ("token_embd.weight", (rows - 16, 256)),
        "output.weight": ("output.weight", (rows - 16, 256)),
    }
    with pytest.raises(
        BadInput, match=rf"token_embd\.weight has {rows - 16} rows, but tokenizer\.ggml\.tokens has {rows}"
    ):
        plan(llama_gguf, target, tensors=cut)
    # llama.cpp reads this key of models without tokens only.
    stated = plan(llama_gguf, target, {"llama.vocab_size": Value("uint32", rows + 1)})
    assert any(f"llama.vocab_size is {rows + 1}" in warning for warning in stated.warnings)


@pytest.mark.parametrize("target", TARGETS)
def test_biases_are_there_where_the_class_or_a_flag_has_them(target: str, qwen2: Baseline, llama: Baseline) -> None:
    name = f"{LAYER}.self_attn.k_proj.bias"
    with pytest.raises(BadInput, match=rf"tensor {name} is missing"):
        plan(qwen2, target, tensors={name: None})
    with pytest.raises(BadInput, match=r"tensor model\.layers\.0\.mlp\.gate_proj\.bias is missing.*\(mlp_bias\)"):
        plan(llama, target, {"mlp_bias": True})
    with pytest.raises(BadInput, match=r"tensor \S+q_proj\.bias is missing.*\(attention_bias\)"):
        plan(llama, target, {"attention_bias": True})


@pytest.mark.parametrize("target", TARGETS)
def test_tensors_that_a_flag_denies_are_one_warning(target: str, glm: Baseline) -> None:
    denied = {"attention_bias": False, "use_qk_norm": False}
    if target == "gguf":  # llama.cpp computes with what is there
        with pytest.raises(
            NotPossible,
            match=r"tensor model\.layers\.0\.self_attn\..*(attention_bias, use_qk_norm|use_qk_norm, attention_bias)",
        ):
            plan(glm, target, denied)
        return
    made = plan(glm, target, denied)
    for flag in ("attention_bias", "use_qk_norm"):
        (warning,) = [text for text in made.warnings if f"({flag})" in text]
        assert "model.layers.0.self_attn." in warning


@pytest.mark.parametrize("target", TARGETS)
def test_every_expert_is_there_and_no_other(target: str, moe: Baseline) -> None:
    name = f"{LAYER}.mlp.experts.2.up_proj.weight"
    with pytest.raises(BadInput, match=f"tensor {name} is missing.*num_experts"):
        plan(moe, target, tensors={name: None})
    with pytest.raises(BadInput, match=r"num_experts is 2\b.*tensor \S+experts\.2\."):
        plan(moe, target, {"num_experts": 2, "num_experts_per_tok": 1})
    with pytest.raises(BadInput, match="moe_intermediate_size is 32"):
        plan(moe, target, {"moe_intermediate_size": 32})
    with pytest.raises(BadInput, match=r"tensor model\.layers\.0\.mlp\.gate_proj\.weight is missing.*mlp_only_layers"):
        plan(moe, target, {"mlp_only_layers": [0]})


@pytest.mark.parametrize("target", TARGETS)
def test_layers_for_prediction_are_as_many_as_the_config_says(target: str, glm: Baseline) -> None:
    assert glm.settings["num_hidden_layers"] == 3
    with pytest.raises(BadInput, match=r"tensor model\.layers\.3\..*num_hidden_layers|layer 4"):
        plan(glm, target, {"num_hidden_layers": 4})
    with pytest.raises(BadInput, match=r"\blayer 3\b.*model\.layers\.3\."):
        plan(glm, target, {"num_nextn_predict_layers": 0}, tensors={"model.layers.3.eh_proj.weight": None})
    with pytest.raises(BadInput, match=r"without model\.layers\.3\.eh_proj\.weight"):
        plan(glm, target, tensors={"model.layers.3.eh_proj.weight": None})
    ends = ("model.layers.3.embed_tokens.weight", "model.layers.3.shared_head.head.weight")
    with pytest.raises(BadInput, match=f"tensor {ends[1]} is missing"):
        plan(glm, target, tensors={ends[1]: None})
    assert plan(glm, target, tensors=dict.fromkeys(ends)).warnings == ()  # as GLM-4.6 is published
    gone = {name: None for name in glm.shapes if name.startswith("model.layers.3.")}
    assert plan(glm, target, tensors=gone).warnings == ()


def test_a_tensor_that_no_model_of_the_type_has_is_refused_for_mlx(llama: Baseline) -> None:
    """mlx-lm refuses such a folder; transformers leaves the tensor out."""
    name = f"{LAYER}.input_layernorm.weight"
    copied = {name: (name, (256,)), "lm_head.weight": ("lm_head.weightx", llama.shapes["lm_head.weight"])}
    tied = {"tie_word_embeddings": True}
    with pytest.raises(NotPossible, match=r"--drop 'lm_head\.weightx'"):
        plan(llama, "mlx", tied, tensors=copied)
    assert plan(llama, "hf", tied, tensors=copied).warnings == ()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "LlamaForCausalLM"),
        ("mistral", "MistralForCausalLM"),
        ("internlm3", "InternLM3ForCausalLM"),
        ("falcon", "RWForCausalLM"),
        ("ernie4_5", "Ernie4_5_ForCausalLM"),
        ("deepseek_v3", "DeepseekV3ForCausalLM"),
    ],
)
def test_classes_that_releases_name_are_known(kind: str, name: str) -> None:
    assert find({"model_type": kind, "architectures": [name]}) is find({"model_type": kind})
    assert find({"model_type": kind, "architectures": None}) is find({"model_type": kind}) is not None
    assert unknown_class({"model_type": kind, "architectures": [name, "Other"]}) == "'Other'"


@pytest.mark.parametrize(
    ("stated", "unknown"),
    [
        (["LlamaForSequenceClassification"], "'LlamaForSequenceClassification'"),
        ("LlamaForCausalLMEagle3", "'LlamaForCausalLMEagle3'"),
        ([7], "7"),
        (["LlamaForCausalLM", "x"], "'x'"),
    ],
)
def test_a_class_that_the_table_does_not_name_is_unknown(stated: object, unknown: str, llama: Baseline) -> None:
    with pytest.raises(NotPossible, match=rf" {unknown} \(architectures\)"):
        plan(llama, "gguf", {"architectures": stated})
    made = plan(llama, "mlx", {"architectures": stated})
    assert any(f" {unknown} (architectures)" in warning for warning in made.warnings)


@pytest.mark.parametrize("target", FOLDERS)
def test_without_a_table_the_count_of_layers_has_to_agree(target: str, llama: Baseline) -> None:
    unknown = {"model_type": "nobody_s", "architectures": ["NobodyForCausalLM"]}
    assert not any("num_hidden_layers" in text for text in plan(llama, target, unknown).warnings)
    (warning,) = [w for w in plan(llama, target, {**unknown, "num_hidden_layers": 1}).warnings if "num_hidden" in w]
    assert "num_hidden_layers is 1" in warning and "model.layers.1." in warning
    with pytest.raises(BadInput, match=r"num_hidden_layers is 3, but no tensor is named model\.layers\.2"):
        plan(llama, target, {**unknown, "num_hidden_layers": 3})


@pytest.mark.parametrize(
    ("config", "stacks", "agrees"),
    [
        ({"num_hidden_layers": 2}, {"model.layers": 2}, True),
        ({"num_hidden_layers": 2}, {"model.layers": 3}, False),
        ({"num_hidden_layers": 2, "num_nextn_predict_layers": 1}, {"model.layers": 3}, True),
        ({"text_config": {"num_hidden_layers": 2}}, {"model.language_model.layers": 2, "model.visual.blocks": 4}, True),
        (
            {"text_config": {"num_hidden_layers": 4}},
            {"model.language_model.layers": 2, "model.visual.blocks": 4},
            False,
        ),
        ({"num_hidden_layers": 12, "num_hidden_groups": 1}, {"encoder.albert_layer_groups": 1}, True),
        ({"num_hidden_layers": 2}, {}, True),
        ({"num_layers": 2}, {"h": 3}, True),
        ({"num_hidden_layers": "two"}, {"h": 3}, True),
        ({"num_hidden_layers": 10**12}, {"model.layers": 3}, False),
    ],
)
def test_stacks_of_layers_are_counted(config: dict[str, Any], stacks: dict[str, int], agrees: bool) -> None:
    names = [f"{prefix}.{layer}.mlp.experts.7.weight" for prefix, count in stacks.items() for layer in range(count)]
    assert (layer_count.disagreement(config, names) is None) is agrees


#: Family -> target -> the rows whose tensors its runtime does without.
UNREAD = [
    (family, target, row) for family in FAMILIES for row in family.tensors for target in row.absent_in if target != "hf"
]


@pytest.mark.parametrize(
    ("family", "target", "row"), UNREAD, ids=lambda one: getattr(one, "name", getattr(one, "role", one))
)
def test_shapes_are_checked_of_what_a_target_does_without(
    root: Path, family: Architecture, target: str, row: Tensor
) -> None:
    case = next(case for case in CASES if architecture_of(case) is family)
    base = dense(case, root)
    name, shape = next((n, s) for n, (_, s) in reference(case)["source"].items() if row in _rows(family, n))
    plan(base, target)
    for wrong in ((*shape[:-1], shape[-1] + 1), (2, *shape)):
        with pytest.raises(BadInput, match=re.escape(name)):
            plan(base, target, tensors={name: (name, wrong)})


def _rows(family: Architecture, name: str) -> list[Tensor]:
    return [found.row for found in family.find(name, "hf")]
