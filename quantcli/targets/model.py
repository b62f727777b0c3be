"""A source as a model: its architecture, the dialect of its names, and the tensors that a target does not need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from quantcli import models
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible
from quantcli.models import Architecture, Found, Hyperparameters, Multimodal, leftovers, prediction
from quantcli.models.base import NUMBER
from quantcli.models.keys import SECTIONS
from quantcli.models.limits import RUNTIMES
from quantcli.models.ops import MropeRows
from quantcli.models.relaid import Relaid, relaid
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Left
from quantcli.targets.global_scales import combined
from quantcli.targets.tied import NESTED, Head, copied, equal_head

#: Names of architectures that a file may be called by.
SPELLING = re.compile(r"[a-z][a-z0-9_-]{0,39}")

#: Why layers for multi-token prediction are left out that the settings do not count.
UNCOUNTED = (
    "it belongs to multi-token prediction, but config.json counts no such layers (num_nextn_predict_layers is 0)"
)

#: Why tensors of towers are left out.
NO_TOWERS = (
    "it belongs to a vision or audio tower, which quant does not convert to GGUF; the output is the text model alone"
)

#: Reasons that a warning states.
WARNED = (UNCOUNTED, NO_TOWERS)

#: The key of config.json that counts the layers.
LAYERS = "num_hidden_layers"

#: How errors call the dialects.
SAID = {"gguf": "a GGUF file", "hf": "a Hugging Face folder", "mlx": "an MLX folder"}


@dataclass(frozen=True)
class Gathered:
    """Weights of a source for a target; `unsplit`, `covered` as in `Relaid`; left: what the target has no use for.

    unused: those of the latter that the model has to have all the same, in the shapes that its settings say.
    """

    weights: Mapping[str, Weight]
    unsplit: Mapping[str, Weight]
    left: list[Left]
    covered: frozenset[str] = frozenset()
    unused: Mapping[str, Weight] = field(default_factory=dict)


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
        if architecture is not None and models.multimodal(source.config_json) is not None:
            architecture = architecture.around()
        shapes = {name: weight.shape for name, weight in source.weights.items()}
        return Model(source, architecture, architecture.dialect(shapes) if architecture else "hf")

    @cached_property
    def _stored(self) -> Relaid | None:
        return self._relaid(self.source.weights)

    def _relaid(self, weights: Mapping[str, Weight]) -> Relaid | None:
        """Tensors of a GGUF file as the tables have them; None for folders, and without a table. Raises `BadInput`."""
        if self.source.names != "gguf" or self.architecture is None:
            return None
        return relaid(weights, self.architecture, models.stored(self.source.metadata, {}, where=str(self.source.root)))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape under its name, of a GGUF file under the one that the table has."""
        weights = self.source.weights if self._stored is None else self._stored.weights
        return {name: weight.shape for name, weight in weights.items() if name != self._second_embedding}

    @cached_property
    def _second_embedding(self) -> str | None:
        """The head of a GGUF file that has the embedding's values, since llama.cpp loads the model with one only."""
        if self.source.names != "gguf" or self.architecture is None or "gguf" not in self.architecture.stores_head:
            return None
        return equal_head(self.source.weights, self.architecture, "gguf")

    @property
    def layout(self) -> frozenset[str]:
        """What a GGUF file stores otherwise than most of its architecture: patterns of tensors, the key of M-RoPE."""
        if self._stored is None or self.architecture is None:
            return frozenset()
        sections = f"{self.architecture.gguf}.{SECTIONS.name}"
        ops = (op for row in self.architecture.tensors for op in row.ops)
        has_mrope = sections in self.source.metadata and any(isinstance(op, MropeRows) for op in ops)
        return self._stored.layouts | ({sections} if has_mrope else frozenset())

    @cached_property
    def multimodal(self) -> Multimodal | None:
        """The model with towers that the text model is in."""
        return models.multimodal(self.source.config_json)

    def in_mlx(self, name: str) -> str:
        """Return a tensor's name in an MLX folder: mlx-lm's if it supports such a model with towers, else as stored."""
        multimodal = self.multimodal
        if multimodal is None:
            return name
        if multimodal.mlx is None:
            return self.source.naming.stored(name)
        tower = multimodal.tower_in_mlx(name)
        return tower if tower in self._towers_in_mlx else multimodal.mlx + name

    @cached_property
    def _towers_in_mlx(self) -> frozenset[str]:
        """The names of the towers' tensors in an MLX folder."""
        return frozenset(map(self.multimodal.tower_in_mlx, self.source.towers) if self.multimodal else ())

    def called(self, name: str) -> tuple[str, ...]:
        """Return further names of a text model's tensor in folders of this model."""
        return self.source.naming.stored(name), self.in_mlx(name)

    def known(self) -> Architecture:
        """Return the architecture, which renaming requires. Raises `NotPossible` if it is unknown."""
        if self.architecture is None:
            raise NotPossible(unknown(self.source))
        return self.architecture

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """The hyperparameters. Raises `BadInput`, `NotPossible`."""
        architecture, label = self.known(), str(self.source.root)
        if self.source.names == "gguf":
            return models.from_gguf(self.source.metadata, label, self.shapes)
        config = dict(self.source.config)
        stated = config.get("num_nextn_predict_layers")
        if architecture.mtp and self.layers is not None and (stated is None or (type(stated) is int and stated > 0)):
            config["num_nextn_predict_layers"] = len(self.predicting)  # whoever made the folder may have left them out
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
        nested = self.source.config.get(NESTED) if self.architecture is None else None
        layers = self.source.config.get(LAYERS, nested.get(LAYERS) if isinstance(nested, Mapping) else None)
        return layers if type(layers) is int else None

    @cached_property
    def predicting(self) -> frozenset[int]:
        """The layers for multi-token prediction: those after the others that have an `eh_proj`."""
        layers = None if self.source.names == "gguf" and self.architecture is None else self.layers
        if layers is None:
            return frozenset()
        found = (layer_of(name) for name in self.source.weights if ".eh_proj." in name)
        return frozenset(layer for layer in found if layer is not None and layer >= layers)

    def in_hf(self, name: str) -> str:
        """Return a tensor's name in a Hugging Face folder: as stored, unless only MLX folders use that name.

        Of some families layers for prediction have their own.
        """
        if self.architecture is not None and self.architecture.mtp_module and self.layers is not None:
            name = prediction.in_module(name, self.layers, self.architecture.mtp_module)
        if name in self._towers_in_hf:
            return name
        stored = self.source.naming.stored(name)
        return stored if self.multimodal is None else self.multimodal.in_hf(stored, is_from_mlx=self.is_from_mlx)

    @property
    def is_from_mlx(self) -> bool:
        """Whether one of MLX's tools made the folder."""
        return self.source.kind == "mlx" or self.source.header.get("format") == "mlx"

    @cached_property
    def _towers_in_hf(self) -> frozenset[str]:
        """The names of the towers' tensors in a Hugging Face folder."""
        multimodal, stored = self.multimodal, self.source.naming.stored
        names = map(stored, self.source.towers)
        return (
            frozenset(multimodal.in_hf(n, is_from_mlx=self.is_from_mlx) for n in names) if multimodal else frozenset()
        )

    def is_predicting(self, name: str) -> bool:
        """Return whether a tensor belongs to a layer for multi-token prediction."""
        return bool(self.predicting) and layer_of(name) in self.predicting

    def leftover(self, name: str) -> str | None:
        """Return why outputs omit a folder's tensor that is not a parameter, as a clause; None for any other tensor.

        What the architecture's table names is none.
        """
        weight, source = self.source.weights.get(name), self.source
        if source.names == "gguf" or weight is None or not isinstance(weight.scheme, Dense) or self.find(name):
            return None
        is_quantized = source.kind != "hf" or "quantization_config" in source.config
        found = leftovers.leftover(name, weight.shape, weight.scheme.dtype, is_quantized=is_quantized)
        return None if found is None else found.reason

    def is_part(self, name: str) -> bool:
        """Return whether the model uses a tensor: the table lists it and the settings do not exclude it.

        Layers for multi-token prediction and a head with the embedding's values are none.
        """
        found = self.find(name)
        if found is None or self.is_predicting(name):
            return False
        if self.head is not None and self.head.weight is self.source.weights[name] and self.head.is_embedding:
            return False
        need = found.row.need(found.suffix)
        return need is None or need.by_presence or need.holds(self.hyperparameters, found.layer or 0)

    @cached_property
    def is_named(self) -> bool:
        """Whether the architecture's table knows any of the names."""
        return any(self.find(name) for name in self.source.weights)

    def gather(self, *, strict: bool = True) -> Gathered:
        """Return the source's weights as the tables describe them. strict: see `combined`. Raises `BadInput`."""
        weights, left = combined(self.source, strict=strict)
        found = self._relaid(weights)
        if found is None:
            return Gathered(weights, {}, left)
        left += [Left(name, "another tensor of its layer has the same values") for name in found.repeated]
        return Gathered(found.weights, found.unsplit, left, found.covered)

    def _is_computed(self, name: str) -> bool:
        """Whether a tensor is one that only GGUF stores, since it follows from the settings."""
        return self.architecture is not None and any(name == row.gguf for row in self.architecture.computed)

    def sort_out(self, target: str) -> Gathered:
        """Return the weights that a target stores, and those that it does not need."""
        found = Gathered(self.source.weights, {}, []) if self.dialect == target else self.gather()
        left = [
            *found.left,
            *(
                Left(n, why, why in WARNED or self._is_unread(n, target))
                for n in found.weights
                if (why := self._drop_reason(n, target))
            ),
        ]
        names = {tensor.name for tensor in left}
        kept = {name: weight for name, weight in found.weights.items() if name not in names}
        unused = {
            name: weight
            for name, weight in found.weights.items()
            if name in names and (self.is_predicting(name) or self._is_computed(name) or self._is_unread(name, target))
        }
        return replace(found, weights={**kept, **self._tied_head(kept, target)}, left=left, unused=unused)

    def _tied_head(self, weights: Mapping[str, Weight], target: str) -> dict[str, Weight]:
        """The head of a tied model in a target whose runtime loads none without: its embedding, once more."""
        architecture, head = self.architecture, self.head
        if architecture is None or target not in architecture.stores_head:
            return {}
        is_tied = head is None or head.is_tied is True or head.is_tied_after_all
        return copied(weights, architecture, self.dialect) if is_tied else {}

    def _drop_reason(self, name: str, target: str) -> str | None:
        """Why a tensor has no place in a target, as a clause; None where it has."""
        architecture, head = self.architecture, self.head
        if target != "hf" and (why := self.leftover(name)) is not None:
            return why
        if architecture is None:
            return self._not_predicted(name, target)
        is_head = head is not None and head.weight is self.source.weights.get(name)
        if head is not None and is_head and target != "hf" and head.is_left_out(target):
            return "it equals the embedding, which is used instead"
        if target == "gguf" and name in self.source.towers:
            return NO_TOWERS
        if self.dialect != target and name == self._second_embedding:
            return "it equals the embedding, which is used instead"
        if self.dialect != target and self._is_computed(name):
            return "the runtime computes it"
        if self._is_unread(name, target):
            return f"{RUNTIMES[target]} does not use it for this architecture"
        if self.dialect != target and self.is_added(name):
            return "the quantizer added it (all zeros); the model has no such bias"
        return self._not_predicted(name, target)

    def _is_unread(self, name: str, target: str) -> bool:
        """Whether a tensor is one that the runtime of a target's dialect has no place for."""
        found = None if self.dialect == target else self.find(name)
        return found is not None and target in found.row.absent_in

    def _not_predicted(self, name: str, target: str) -> str | None:
        """Why a tensor for multi-token prediction has no place in a target; None where it has, and for any other."""
        architecture, no_place = (
            self.architecture,
            f"it belongs to multi-token prediction, which {SAID[target]} does not hold",
        )
        is_copy = target == "hf" or self.dialect == "gguf" or (architecture is None and self.source.kind == "mlx")
        if not is_copy and leftovers.is_for_prediction(name) and not self.find(name):
            return no_place
        if self.dialect == target or not self.is_predicting(name):
            return None
        if architecture is None:
            return None if is_copy else no_place
        if not self.hyperparameters.settings.integer("num_nextn_predict_layers", 1, least=0):
            return UNCOUNTED
        return None if target in (architecture.mtp or ()) else no_place

    def is_added(self, name: str) -> bool:
        """Return whether this is one of the all-zero biases that AutoGPTQ adds to every module."""
        module = name.removesuffix(".bias")
        weight = self.source.weights.get(f"{module}.weight")
        if module == name or weight is None or not weight.scheme.adds_biases:
            return False
        if self._has_bias(name):
            return False
        return not self.source.weights[name].parts["weight"].read().any()

    def _has_bias(self, name: str) -> bool:
        """Whether the table and the settings say that there is this bias."""
        found = self.find(name)
        need = found.row.need(found.suffix) if found else None
        return found is not None and need is not None and need.holds(self.hyperparameters, found.layer or 0)

    def find(self, name: str) -> Found | None:
        """Return a tensor's row in the architecture's table; None if it has none."""
        found = self.architecture.find(name, self.dialect) if self.architecture else []
        return found[0] if found else None


def layer_of(name: str) -> int | None:
    """Return the first number in a tensor's name; None if it has none."""
    found = NUMBER.search(name)
    return int(found[0]) if found else None


def unknown(source: Checkpoint) -> str:
    """Return the error for a model whose architecture has no table."""
    strange = models.unknown_class(source.config)
    if strange is not None:
        return (
            f"{source.root}: class {strange} (architectures) of model_type {shown(source.config.get('model_type'))} "
            f"is not supported, so quant cannot rename its tensors. {models.SEE_FAMILIES}"
        )
    if source.names == "gguf":
        stated = source.metadata.get("general.architecture")
        key, name = "general.architecture", getattr(stated, "value", stated)
    else:
        key, name = "model_type", source.config.get("model_type")
    file = f"{name.replace('-', '_')}.py" if isinstance(name, str) and SPELLING.fullmatch(name) else "NAME.py"
    return (
        f"{source.root}: {key} {shown(name)} is not supported, so quant cannot rename its tensors. To add it, write "
        f"quantcli/models/families/{file} as TEMPLATE.md there describes. {models.SEE_FAMILIES}"
    )
