"""The weights of a source under the names, and in the arrangement, of a target's dialect; and what is left out.

A model that has no table keeps its names where source and target are both folders.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from quantcli import models
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture, Found, Hyperparameters
from quantcli.models.translate import Arranged, Translation
from quantcli.recipes.base import Subject
from quantcli.targets.base import Left
from quantcli.targets.global_scales import combined
from quantcli.targets.tied import Head

#: Names of architectures that a file may be called by.
SPELLING = re.compile(r"[a-z][a-z0-9_-]{0,39}")

#: Model types whose classes have biases without a flag in config.json that says so, and of which modules.
QKV = ("q_proj", "k_proj", "v_proj")
BIASED = {
    "qwen2": QKV, "qwen2_moe": QKV, "glm4": QKV, "glm4_moe": QKV, "gpt_oss": ("",), "gpt_neox": ("",), "falcon": ("",),
    "starcoder2": ("",), "stablelm": ("",), "nemotron": ("",), "ernie4_5": ("",), "mamba": ("",),
    "falcon_mamba": ("",),
}  # fmt: skip
BIAS_FLAGS = ("attention_bias", "mlp_bias", "qkv_bias", "use_bias", "bias")

#: How errors call the dialects.
SAID = {"gguf": "GGUF", "hf": "Hugging Face's folders", "mlx": "MLX's folders"}


@dataclass(frozen=True)
class Named:
    """A weight of the target: what it is in the table (None: the table does not know it), where its rows come from."""

    name: str
    found: Found | None
    source: Arranged

    @property
    def subject(self) -> Subject:
        """What recipes see of it: its name in this target, in GGUF, and where those differ in the other folders.

        Of stacked experts they see the first's name where a dialect names each.
        """
        shape = self.source.shape
        if self.found is None:
            return Subject(self.name, shape=shape)
        first = None if self.name == self.found.name("hf") else 0
        hf, gguf, mlx = (self.found.name(dialect, first) for dialect in ("hf", "gguf", "mlx"))
        name = hf if self.name == gguf else self.name
        others = tuple(other for other in dict.fromkeys((hf, mlx)) if other != name)
        return Subject(name, gguf, self.found.row.role, shape, others)


@dataclass(frozen=True)
class Model:
    """A source with its architecture and the dialect of its names."""

    source: Checkpoint
    architecture: Architecture | None
    dialect: str

    @staticmethod
    def of(source: Checkpoint) -> Model:
        if source.names == "gguf":
            return Model(source, models.by_gguf(source.metadata), "gguf")
        architecture = models.find(source.config)
        shapes = {name: weight.shape for name, weight in source.weights.items()}
        return Model(source, architecture, architecture.dialect(shapes) if architecture else "hf")

    def known(self) -> Architecture:
        """The architecture, without which there are no names in another dialect. Raises `NotPossible`."""
        if self.architecture is None:
            raise NotPossible(unknown(self.source))
        return self.architecture

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """The settings of either dialect; raises `BadInput`, `NotPossible`."""
        architecture, label = self.known(), str(self.source.root)
        if self.source.names == "gguf":
            shapes = {name: weight.shape for name, weight in self.source.weights.items()}
            return models.from_gguf(self.source.metadata, label, shapes)
        config = dict(self.source.config)
        if architecture.mtp and self.layers is not None and not any(map(self._is_beyond, self.source.weights)):
            config["num_nextn_predict_layers"] = 0  # whoever made the folder left them out
        return architecture.hyperparameters(config, f"{label}/config.json")

    @cached_property
    def head(self) -> Head | None:
        """The output matrix of a folder and what its settings say of it; a GGUF file says it by having one."""
        return None if self.source.names == "gguf" else Head.of(self.source, self.architecture)

    @cached_property
    def layers(self) -> int | None:
        """How many layers the model has, those for multi-token prediction aside; None where nothing says so."""
        if self.source.names == "gguf":
            return self.hyperparameters.layers
        layers = self.source.config.get("num_hidden_layers")
        return layers if type(layers) is int else None

    def _is_beyond(self, name: str) -> bool:
        """Whether a tensor belongs to a layer for multi-token prediction."""
        layer = self.architecture.layer(name) if self.architecture else None
        return layer is not None and self.layers is not None and layer >= self.layers

    def sort_out(self, target: str) -> tuple[dict[str, Weight], list[Left]]:
        """The weights that a target has, and those that it has no use for."""
        weights, left = (self.source.weights, []) if self.dialect == target else combined(self.source)
        left += [Left(name, why) for name in weights if (why := self._drop_reason(name, target))]
        names = {tensor.name for tensor in left}
        return {name: weight for name, weight in weights.items() if name not in names}, left

    def _drop_reason(self, name: str, target: str) -> str | None:
        """Why a tensor has no place in a target, as a clause; None where it has."""
        architecture, head = self.architecture, self.head
        if architecture is None:
            return None
        is_head = head is not None and head.weight is self.source.weights[name]
        if head is not None and is_head and target != "hf" and head.is_left_out(target):
            return "the embedding, which has the same values, is used for it"
        if self.dialect == target:
            return None
        if architecture.drops(name) or any(name == computed.gguf for computed in architecture.computed):
            return "the model computes it"
        if self._is_added(name):
            return "the quantizer added it, all zeros: the model has no such bias"
        if architecture.mtp is not None and target not in ("hf", *architecture.mtp) and self._is_beyond(name):
            return f"for multi-token prediction, which has no place in {SAID[target]}"
        return None

    def _is_added(self, name: str) -> bool:
        """Whether this is one of the biases, all zeros, that AutoGPTQ gives to every module."""
        module = name.removesuffix(".bias")
        weight = self.source.weights.get(f"{module}.weight")
        if module == name or weight is None or weight.scheme.family != "gptq":
            return False
        config = self.source.config
        own = BIASED.get(str(config.get("model_type")), ())
        if module.endswith(own) or any(config.get(flag) is True for flag in BIAS_FLAGS):
            return False
        return not self.source.weights[name].parts["weight"].read().any()

    def refuse_incomplete(self) -> None:
        """Raise `BadInput` for a tensor that the model cannot do without, by its table and its number of layers."""
        layers = self.layers if self.architecture else None
        if self.architecture is None or layers is None:
            return
        missing = self.architecture.missing(self.source.weights, layers, self.dialect)
        if missing is not None:
            where = "its metadata" if self.dialect == "gguf" else "num_hidden_layers in config.json"
            raise BadInput(
                f"{self.source.root}: has no tensor {missing}, which a {self.architecture.name} model of {layers} "
                f"layers needs: get the checkpoint again, or mend {where}."
            )

    def named(self, target: str) -> tuple[list[Named], list[Left]]:
        """The weights of a target under its names. Raises `NotPossible` for one that has none there, `BadInput`."""
        if self.head is not None:
            self.head.check(target)
        kept, left = self.sort_out(target)
        if self.dialect != target or target == "mlx":
            self.refuse_incomplete()
        if self.architecture is None or self.architecture.agrees(self.dialect, target):
            return [Named(name, self._found(name), Arranged.of(weight)) for name, weight in kept.items()], left
        translation = Translation(self.architecture, self.hyperparameters, self.dialect, target, str(self.source.root))
        translated, rest = translation.of(kept)
        if rest and "gguf" in (self.dialect, target):
            raise NotPossible(
                f"{self.source.root}: tensor {rest[0]} has no place in {SAID[target]} for {self.architecture.name}; "
                "leave it out of the checkpoint."
            )
        made = [Named(t.name, t.found, t.source) for t in translated]
        return made + [Named(name, None, Arranged.of(kept[name])) for name in rest], left

    def _found(self, name: str) -> Found | None:
        found = self.architecture.find(name, self.dialect) if self.architecture else []
        return found[0] if found else None


def unknown(source: Checkpoint) -> str:
    """That a model's architecture has no table, and what to do."""
    if source.names == "gguf":
        stated = source.metadata.get("general.architecture")
        key, name = "general.architecture", getattr(stated, "value", stated)
        known = ", ".join(sorted({a.gguf for a in models.FAMILIES}))
    else:
        key, name, known = "model_type", source.config.get("model_type"), ", ".join(models.KINDS)
    file = f"{name.replace('-', '_')}.py" if isinstance(name, str) and SPELLING.fullmatch(name) else "NAME.py"
    return (
        f"{source.root}: {key} {shown(name)} is not known, so its tensors have no names in the other dialect; known "
        f"are {known}: to add it, write quantcli/models/{file} as quantcli/models/TEMPLATE.md says."
    )
