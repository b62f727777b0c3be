"""Cuts the cases of this folder out of whole checkpoints: layer 0, k_proj and down_proj, or the experts of gpt-oss.

    python cut.py FIXTURES/quantized        each case: config.json, model.safetensors, truth.json

truth.json: weight -> the SHA-256 of its float32 values as the tool has them, with and without negative zeros.
"""

import json
import sys
from pathlib import Path

KEPT = ("layers.0.self_attn.k_proj.", "layers.0.mlp.down_proj.", "layers.0.mlp.experts.")
HASHES = ("sha256_f32", "sha256_f32_no_negative_zero")


def cut(case: Path, out: Path) -> None:
    raw = (case / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    metadata = {k: v for k, v in header.pop("__metadata__", {}).items() if any(part in k for part in KEPT)}
    members, data = {"__metadata__": {"format": "pt"} | metadata}, b""
    for name, entry in header.items():
        if any(part in name for part in KEPT):
            begin, end = entry["data_offsets"]
            members[name] = entry | {"data_offsets": [len(data), len(data) + end - begin]}
            data += raw[start + begin : start + end]
    text = json.dumps(members).encode()
    text += b" " * (-len(text) % 8)
    truth = json.loads((case / "truth.json").read_text())["tensors"]
    kept = {name: [entry[h] for h in HASHES] for name, entry in truth.items() if any(p in f"{name}." for p in KEPT)}
    config = json.loads((case / "config.json").read_text())
    config["quantization_config"].pop("meta", None)
    out.mkdir(exist_ok=True)
    (out / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (out / "config.json").write_text(json.dumps(config) + "\n")
    (out / "truth.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if (path / "truth.json").exists()):
        cut(folder, here / folder.name)
