"""f16 numbers as bytes: read to float32 and written again."""

from typing import Any

import numpy as np

from quantcli.kernels.compile import kernel
from quantcli.kernels.ggml.scales import write_f16
from quantcli.kernels.llvm.vectors import half

ALL = np.arange(1 << 16, dtype=np.uint16)


@kernel
def read(data: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = half(data, 2 * i)


def test_every_half_is_read_as_numpy_reads_it() -> None:
    out, expected = np.empty(len(ALL), np.float32), ALL.view(np.float16).astype(np.float32)
    read(ALL.view(np.uint8), out)
    numbers = ~np.isnan(expected)
    assert (out.view(np.uint32) == expected.view(np.uint32))[numbers].all()
    assert np.isnan(out[~numbers]).all()


def test_every_half_is_written_as_it_was_read() -> None:
    values, out = ALL.view(np.float16).astype(np.float32), np.zeros((len(ALL), 3), np.uint8)
    write_f16(values, out, len(ALL), 1)
    numbers = ~np.isnan(values)
    written = out[:, 1].astype(np.uint16) | out[:, 2].astype(np.uint16) << 8
    assert (written == ALL)[numbers].all()
    assert (out[:, 0] == 0).all()
