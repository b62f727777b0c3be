"""MiMo-V2-Flash: counts that differ from layer to layer, and layers for multi-token prediction that may be missing."""

from pathlib import Path

import pytest

from quantcli.errors import BadInput
from quantcli.models import config_from_gguf
from quantcli.sources.detect import open_source
from tests.arch_models import arch_model
from tests.conversions import converted
from tests.convert.test_golden_arch import reference
from tests.gguf_files import load


def test_without_layers_for_prediction_it_has_as_many_blocks_as_layers(tmp_path: Path) -> None:
    """As convert_hf_to_gguf.py --no-mtp makes it: config.json does not count such layers."""
    tensors = {name: one for name, one in reference("mimo_v2_flash")["source"].items() if ".mtp." not in name}
    converted(arch_model(tmp_path, "mimo_v2_flash", tensors), tmp_path / "a.gguf", check=False)
    keys, _ = load(tmp_path / "a.gguf")
    assert keys["mimo2.block_count"][1] == 3
    assert keys["mimo2.attention.head_count_kv"][1].decode() == [2, 4, 4]
    assert "mimo2.nextn_predict_layers" not in keys


def test_a_folder_has_its_layers_for_prediction_in_a_module(tmp_path: Path) -> None:
    source = arch_model(tmp_path, "mimo_v2_flash")
    converted(source, tmp_path / "a.gguf", check=False)
    converted(tmp_path / "a.gguf", tmp_path / "hf", to="hf", check=False)
    stored = {one.parts["weight"].name for one in open_source(tmp_path / "hf").weights.values()}
    assert stored == set(reference("mimo_v2_flash")["source"])


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([2, 4], r"head_count_kv: .* 3 .*block_count.* 2\."),
        ([2, 3, 4], r"head_count 4 .*multiple.* attention\.head_count_kv 3"),
        ([2, 0, 4], "head_count_kv.* 0"),
    ],
)
def test_counts_of_heads_that_make_no_sense_are_refused(counts: list[int], said: str) -> None:
    metadata = {
        "general.architecture": "mimo2", "mimo2.block_count": 3, "mimo2.vocab_size": 384, "mimo2.context_length": 64,
        "mimo2.embedding_length": 64, "mimo2.feed_forward_length": 96, "mimo2.attention.head_count": 4,
        "mimo2.attention.head_count_kv": counts, "mimo2.attention.layer_norm_rms_epsilon": 1e-5,
        "mimo2.attention.key_length": 24, "mimo2.attention.value_length": 16, "mimo2.rope.dimension_count": 8,
        "mimo2.attention.sliding_window": 16, "mimo2.attention.sliding_window_pattern": [0, 1, 1],
    }  # fmt: skip
    with pytest.raises(BadInput, match=said):
        config_from_gguf(metadata, {}, where="a.gguf")
