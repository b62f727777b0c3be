"""`quant architectures`: every family, what it is converted between and tested against."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from quantcli import models
from quantcli.cli import architectures as module
from quantcli.cli.app import app
from quantcli.errors import NotPossible
from quantcli.models.families.aliases import ALIASES
from tests.arch_models import arch_model

SCHEMA = json.loads((Path(module.__file__).parent / "schema" / "architectures.json").read_text())
#: What sets a terminal's style.
STYLE = re.compile(r"\x1b\[[0-9;]*m")
SEE = "`quant architectures [--json]`"


def quant(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["architectures", *arguments])


def listed(*arguments: str) -> list[dict[str, Any]]:
    done = quant(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA)
    families: list[dict[str, Any]] = found["architectures"]
    return families


def test_every_family_model_type_and_class_is_there_once() -> None:
    found = listed()
    assert [one["name"] for one in found] == sorted(family.name for family in models.FAMILIES)
    types = [kind for one in found for kind in (*one["model_types"], *one["other_names"])]
    assert len(types) == len(set(types)) and set(types) == {*models.KINDS, *ALIASES}
    towers = [kind for one in found for kind in one["towers"]]
    assert sorted(towers) == sorted(one.model_type for family in models.FAMILIES for one in family.multimodal)
    for one in found:
        for name in one["classes"]:
            types_of = [*one["model_types"], *one["towers"]] or [one["name"]]
            kinds = [kind for kind in types_of if models.find({"model_type": kind, "architectures": [name]})]
            assert kinds, name


def test_directions_are_each_format_to_each_other() -> None:
    for one in listed():
        assert len(one["directions"]) == len(one["formats"]) * (len(one["formats"]) - 1)
        assert ("mlx" in one["formats"]) is bool(one["mlx"])
    (falcon,) = listed("falcon")
    assert falcon["directions"] == ["hf-gguf", "gguf-hf"]
    (llama,) = [one for one in listed("llama") if one["name"] == "llama"]
    assert set(llama["directions"]) == {"hf-gguf", "hf-mlx", "gguf-hf", "gguf-mlx", "mlx-hf", "mlx-gguf"}
    assert "llava" in llama["mlx"] and "idefics3" not in llama["mlx"]


def test_what_mlx_lm_does_not_load_is_what_the_limits_exclude() -> None:
    for family in models.FAMILIES:
        excluded = {kind for limit in family.limits for kind in limit.excludes}
        (one,) = [one for one in listed(family.name) if one["name"] == family.name]
        assert excluded.isdisjoint(one["mlx"])


@pytest.mark.parametrize("name", ["mistral3", "ministral3", "Mistral3ForConditionalGeneration", " mistral3 "])
def test_a_family_has_many_names(name: str) -> None:
    assert [one["name"] for one in listed(name)] == ["mistral3"]
    done = quant(name)
    assert done.exit_code == 0
    facts = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert (facts["model types"].strip(), facts["with towers"].strip()) == ("ministral3", "mistral3")


def test_a_name_in_gguf_is_of_all_its_families() -> None:
    assert [one["name"] for one in listed("deepseek2")] == ["deepseek_v2", "deepseek_v3", "glm4_moe_lite"]
    assert quant("deepseek2").stdout.count("GGUF:") == 3


def test_a_name_of_nothing_is_wrong_usage() -> None:
    done = quant("unheard_of")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "'unheard_of'" in done.stderr and "`quant architectures`" in done.stderr


def test_a_pipe_gets_one_line_a_family() -> None:
    done = quant()
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["GGUF", "formats", "tokenizers", "cases", "model", "types"]
    assert len(lines) == 1 + len(models.FAMILIES) + len(module.LEGEND)
    assert "gemma3_text, gemma3+" in done.stdout
    assert quant("-q").stdout == done.stdout


def on_a_terminal(columns: int) -> list[str]:
    """The lines that a terminal of so many columns gets."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    run = subprocess.Popen(
        [sys.executable, "-c", "from quantcli.cli.app import main; main()", "architectures"],
        stdout=follower,
        env=environment | {"TERM": "xterm"},
    )
    os.close(follower)
    said = b""
    try:
        while part := os.read(leader, 1 << 16):
            said += part
    except OSError:  # what Linux says at the end
        pass
    os.close(leader)
    assert run.wait() == 0
    return STYLE.sub("", said.decode()).splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_of_any_width_shows_whole_names(columns: int) -> None:
    lines = on_a_terminal(columns)
    assert max(map(len, lines)) <= columns
    words = {word.rstrip(",+") for line in lines for word in line.split()}
    assert {*models.KINDS, *ALIASES, *(family.gguf for family in models.FAMILIES)} <= words
    assert ("tokenizers" in words) is (columns == 120)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"model_type": "unheard_of"}, ["--scheme", "affine4-g32"]),
        ({"model_type": "unheard_of"}, []),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, ["--scheme", "affine4-g32"]),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, []),
    ],
)
def test_an_error_that_refuses_an_unknown_architecture_ends_by_naming_it(
    settings: dict[str, Any], options: list[str], tmp_path: Path
) -> None:
    source = arch_model(tmp_path, "qwen3", settings=settings)
    output = tmp_path / ("out" if options else "out.gguf")
    done = CliRunner().invoke(app, ["convert", str(source), str(output), *options])
    assert done.exit_code == 4
    assert SEE in done.stderr.splitlines()[-1].rpartition(". ")[2]


def test_a_gguf_file_of_an_unknown_architecture_names_it_too() -> None:
    with pytest.raises(NotPossible, match="quant architectures") as refused:
        models.config_from_gguf({"general.architecture": "rwkv9"}, {})
    assert SEE in str(refused.value).rpartition(". ")[2]
