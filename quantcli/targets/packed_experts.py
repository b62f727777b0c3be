"""gpt-oss's experts in a Hugging Face folder: packed MXFP4 with a row for each output, or dense matrices, transposed.

    packed   X_blocks, X_scales   (experts, outputs, inputs)    as GGUF files and MLX folders have them
    dense    X                    (experts, inputs, outputs)

Source: transformers (integrations/mxfp4.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from quantcli.models.translate import Arranged, is_transposed
from quantcli.schemes.base import Scheme
from quantcli.schemes.hf.gpt_oss import GptOss
from quantcli.targets.base import COMMON_LAYOUT, Layout
from quantcli.targets.names import Named
from quantcli.virtual import transposed


class PackedExperts(Layout):
    """Folder layout of gpt-oss's experts whose codes are MXFP4."""

    def holders(self, holders: Sequence[Scheme]) -> Sequence[Scheme]:
        return (GptOss(),)

    def dense(self, source: Arranged) -> Arranged:
        return Arranged.of(transposed(source.weight, source.rows, source.shape))


def layout(named: Named) -> Layout:
    """Return the layout of a weight in a Hugging Face folder."""
    is_packed = named.found is not None and any(is_transposed(op, named.source.weight) for op in named.found.row.ops)
    return PackedExperts() if is_packed else COMMON_LAYOUT
