"""Makes small.gguf and small-big-endian.gguf with the `gguf` library (0.19.0): every value type, seven tensor types.

python tests/data/gguf/make.py
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFWriter

HERE = Path(__file__).parent
BLOCKS = {
    "blk.0.ffn_down.weight": "Q8_0",
    "blk.0.attn_q.weight": "Q4_0",
    "output.weight": "Q6_K",
    "token_embd.weight": "Q4_1",
}
SHAPES = {"Q8_0": ((3, 64), 68), "Q4_0": ((2, 32), 18), "Q6_K": ((2, 256), 210), "Q4_1": ((5, 32), 20)}


def write(path: Path, endian: GGUFEndian) -> None:
    writer = GGUFWriter(path, "llama", endianess=endian)
    writer.add_name("Small")
    for kind, value in {
        "uint8": 200,
        "int8": -100,
        "uint16": 60_000,
        "int16": -30_000,
        "uint32": 4_000_000_000,
    }.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    for kind, value in {"int32": -2_000_000_000, "uint64": 2**64 - 1, "int64": -(2**63)}.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_float32("test.float32", 0.1)
    writer.add_float64("test.float64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.5])
    writer.add_array("test.bools", [True, False, True])
    writer.add_array("test.texts", ["a", "", "größe", "\n"])
    writer.add_tensor("norm.weight", np.linspace(-1, 1, 8, dtype=np.float32), tensor_endianess=GGUFEndian.LITTLE)
    writer.add_tensor(
        "half", np.linspace(-1, 1, 6, dtype=np.float16).reshape(1, 2, 3), tensor_endianess=GGUFEndian.LITTLE
    )
    writer.add_tensor("ids", np.arange(4, dtype=np.int32), tensor_endianess=GGUFEndian.LITTLE)
    random = np.random.default_rng(0)
    for name, kind in BLOCKS.items():
        (rows, _), row_bytes = SHAPES[kind]
        data = random.integers(0, 256, (rows, row_bytes), np.uint8)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(HERE / "small.gguf", GGUFEndian.LITTLE)
    write(HERE / "small-big-endian.gguf", GGUFEndian.BIG)
