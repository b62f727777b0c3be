"""The class in transformers that the config.json of a folder names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import transformers


def class_of(folder: Path) -> Any | None:
    """The class by its name, that of a model with towers too; None where transformers has none."""
    settings = json.loads((folder / "config.json").read_text())
    return getattr(transformers, settings["architectures"][0], None)


def known(folder: Path, cls: Any) -> Path:
    """The folder, or a copy under the model type of the class: what experts are called depends on it."""
    settings = json.loads((folder / "config.json").read_text())
    if settings["model_type"] == cls.config_class.model_type:
        return folder
    copy = folder.with_name(f"{folder.name}-known")
    shutil.copytree(folder, copy)
    (copy / "config.json").write_text(json.dumps({**settings, "model_type": cls.config_class.model_type}))
    return copy
