"""mlx-lm on folders whose settings stood in a quantization_config.json, which it does not read itself."""

import json
from pathlib import Path

from tests.builders import tiny_llama
from tests.conversions import config, converted
from tests.peers.pinned import peer

peer("mlx_lm")

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

FILE = "quantization_config.json"
PLAN = {"quant_method": "mixed-4-8", "bits": 4, "group_size": 32, "component_overrides": {"down_proj": {"bits": 8}}}


def test_mlx_lm_loads_what_was_merged_into_config_json(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "in")
    (source / FILE).write_text(json.dumps(PLAN))
    converted(source, tmp_path / "direct", scheme="affine4-g64")
    stated = config(tmp_path / "direct")
    block = stated.pop("quantization")
    del stated["quantization_config"]
    (tmp_path / "direct").rename(tmp_path / "apart")
    (tmp_path / "apart" / "config.json").write_text(json.dumps(stated))
    (tmp_path / "apart" / FILE).write_text(json.dumps(block))
    converted(tmp_path / "apart", tmp_path / "merged")
    converted(source, tmp_path / "direct", scheme="affine4-g64")
    models = [load_model(tmp_path / name)[0] for name in ("direct", "merged")]
    layer = models[1].model.layers[0].mlp
    assert (layer.down_proj.bits, layer.down_proj.group_size, layer.up_proj.bits) == (8, 32, 4)
    logits = [model(mx.array([[1, 2, 3]])) for model in models]
    assert mx.array_equal(*logits)
