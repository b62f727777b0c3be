"""Each owner's layouts made anew, whole: our values equal what its own dequantizer gives, by float32 hash.

tests/data/layouts has what the same functions made once; here an owner that is not installed is skipped.
"""

import json
from pathlib import Path

import pytest

from quantcli.sources.detect import open_source
from tests.peers.pinned import peer
from tests.sources.test_more_layouts import SIGNLESS
from tests.sources.test_quantized_sources import hashes, whole

peer("torch")
peer("transformers")

from tests.peers import make_layouts  # noqa: E402

#: Who has to be installed beside torch and transformers -> what makes its cases.
OWNERS = {
    "modelopt": ("modelopt", make_layouts.modelopt),
    "transformers": (None, make_layouts.transformers_fp8),
    "compressed-tensors": ("compressed_tensors", make_layouts.compressed_tensors),
    "torchao": ("torchao", make_layouts.torchao),
    "optimum-quanto": ("optimum.quanto", make_layouts.optimum_quanto),
}


@pytest.mark.parametrize("owner", OWNERS)
def test_values_are_the_owners(owner: str, tmp_path: Path) -> None:
    module, make = OWNERS[owner]
    if module is not None:
        peer(module)
    make(tmp_path)
    cases = sorted(path.parent for path in tmp_path.glob("*/truth.json"))
    assert cases
    for case in cases:
        source = open_source(case)
        for name, hashed in json.loads((case / "truth.json").read_text()).items():
            weight = source.weights[name]
            found = hashes(weight.scheme.decode(whole(weight)).reshape(weight.shape))
            assert found[1] == hashed[1], (case.name, name)
            assert found[0] == hashed[0] or case.name in SIGNLESS, (case.name, name)
