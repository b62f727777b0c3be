"""Files that tell sentence-transformers how to pool a model's tokens into one vector.

    modules.json             the model, then the pooling
    1_Pooling/config.json    which kind of pooling

Source: sentence-transformers' save formats (models/Transformer.py, models/Pooling.py).
"""

from __future__ import annotations

import json

from quantcli.targets.base import OutputFile
from quantcli.targets.shards import json_file

FOLDER = "1_Pooling"
#: Word of the pooling -> the flag that says it.
FLAGS = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}


def files(pooling: str, width: int) -> list[OutputFile]:
    """Return both files. pooling: a word of `models.pooling`. width: the size of a vector."""
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate((("", "Transformer"), (FOLDER, "Pooling")))
    ]
    flags = {f"pooling_mode_{flag}": word == pooling for word, flag in FLAGS.items()}
    data = (json.dumps(modules, indent=4) + "\n").encode()
    return [
        OutputFile("modules.json", len(data), ((0, data),)),
        json_file(f"{FOLDER}/config.json", {"word_embedding_dimension": width, **flags}),
    ]
