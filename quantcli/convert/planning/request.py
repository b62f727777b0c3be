"""The options of `quant convert` that shape a plan or its run, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantcli.errors import WrongUsage
from quantcli.targets import TARGETS


@dataclass(frozen=True)
class Request:
    """The options of one conversion; None and empty values mean not given.

    tensor_types: `REGEX=TYPE` texts and files of them. shard_size: in bytes. device: as `devices.available` returns it.
    """

    output: Path
    to: str | None = None
    scheme: str | None = None
    bits: int | None = None
    group_size: int | None = None
    mode: str | None = None
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[str | Path, ...] = ()
    imatrix: Path | None = None
    search: str = "ggml"
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    override_kv: tuple[str, ...] = ()
    prune_layers: str | None = None
    tokenizer: Path | None = None
    keep_split: bool = False
    drop: tuple[str, ...] = ()
    dtype: str | None = None
    scale_dtype: str | None = None
    lossless: str | None = None
    allow_requantize: bool = False
    allow_unknown_architecture: bool = False
    fallback: str = "auto"
    allow_nonfinite: bool = False
    shard_size: int | None = None
    strict: bool = False
    device: str = "cpu"

    @property
    def target(self) -> str:
        """`mlx`, `gguf` or `hf`: `--to`, by default what the output's name implies. Raises `WrongUsage`."""
        named = "gguf" if self.output.name.lower().endswith(".gguf") else None
        if self.to is None:
            return named or "mlx"
        if (self.to == "gguf") != (named == "gguf"):
            wanted = "ends in .gguf" if self.to == "gguf" else "does not end in .gguf"
            raise WrongUsage(f"--to {self.to}: OUTPUT is {self.output.name}; expected a name that {wanted}.")
        return self.to


#: Fields of `Request` that apply only to GGUF output and its presets, and their options.
GGUF_OPTIONS = {
    "pure": "--pure",
    "leave_output_tensor": "--leave-output-tensor",
    "output_tensor_type": "--output-tensor-type",
    "token_embedding_type": "--token-embedding-type",
    "tensor_types": "--tensor-type",
}

#: All fields that apply only to GGUF output.
GGUF_ONLY = GGUF_OPTIONS | {
    "imatrix": "--imatrix",
    "include_weights": "--include-weights",
    "exclude_weights": "--exclude-weights",
    "override_kv": "--override-kv",
    "prune_layers": "--prune-layers",
    "keep_split": "--keep-split",
}


def check(request: Request) -> None:
    """Raise `WrongUsage` for options that do not apply to the target or contradict each other."""
    target = TARGETS[request.target]()
    if request.search != "ggml" and not any(scheme.better_search for scheme in target.holders("f16")):
        raise WrongUsage(f"--search {request.search} applies only to GGUF output. Choose an OUTPUT that ends in .gguf.")
    if not target.follows_llama_quantize:
        given = next((option for field, option in GGUF_ONLY.items() if getattr(request, field)), None)
        if given:
            raise WrongUsage(f"{given} applies only to GGUF output. Choose an OUTPUT that ends in .gguf.")
    if request.keep_split and request.shard_size:
        raise WrongUsage("--keep-split and --shard-size cannot be used together. Use one of them.")
    if request.scale_dtype and not any(scheme.chosen_scale_dtype for scheme in target.holders("f16")):
        raise WrongUsage("--scale-dtype applies only to MLX output: the other formats fix the dtype of their scales.")
    if not target.follows_mlx_lm and (request.bits or request.group_size or request.mode):
        raise WrongUsage("--bits, --group-size and --mode apply only to MLX output. Use --scheme.")
