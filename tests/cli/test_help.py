"""The help of every command, the values of options that take one of a few words, and the completion by the shell."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from quantcli.cli import choices
from quantcli.cli.app import app
from quantcli.cli.choices import Choice
from quantcli.cli.examples import EXAMPLES, FIRST_STEPS
from quantcli.convert.planning import devices
from quantcli.dtypes import DENSE_DTYPES
from quantcli.recipes.names import MODES
from quantcli.schemes.base import SEARCHES
from quantcli.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent.parent
COMMANDS: dict[str, typing.Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
NAMES = ("", *COMMANDS)
#: The model on the Hub that the examples name.
HUB_MODEL = "Qwen/Qwen3-0.6B"
#: Option -> its type, and the words that the package knows.
CHOICES = {
    "--to": (choices.TARGET, TARGETS),
    "--dtype": (choices.DTYPE, DENSE_DTYPES),
    "--scale-dtype": (choices.SCALE_DTYPE, DENSE_DTYPES),
    "--mode": (choices.MODE, MODES),
    "--search": (choices.SEARCH, SEARCHES),
    "--lossless": (choices.LOSSLESS, ("exact", "codes")),
    "--device": (choices.DEVICE, devices.CHOICES),
}


#: Prints the help of every command, each in a process's terminal of COLUMNS columns, which `CliRunner` does not have.
HELPS = """
import sys
from quantcli.cli.app import app
for name in sys.argv[1:]:
    app([*name.split(), "--help"], prog_name="quant", standalone_mode=False)
    print("\\f", end="")
"""


@functools.cache
def helps(columns: int) -> dict[str, list[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    command = [sys.executable, "-c", HELPS, *NAMES]
    done = subprocess.run(command, capture_output=True, check=True, env=environment, text=True)
    return dict(zip(NAMES, (text.splitlines() for text in done.stdout.split("\f")), strict=False))


def help_of(name: str, columns: int) -> list[str]:
    return helps(columns)[name]


def completed(words: str) -> list[str]:
    """What the shell offers for the last of the words of a command line."""
    count = len(words.split(" ")) - 1
    environment = {"_QUANT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    return CliRunner().invoke(app, [], prog_name="quant", env=environment).stdout.split()


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_help_fits_the_terminal(name: str, columns: int) -> None:
    assert [line for line in help_of(name, columns) if len(line) > columns] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_under_a_heading(name: str) -> None:
    options = [option for option in COMMANDS[name].params if option.param_type_name == "option"]
    headings = [option.rich_help_panel for option in options]
    assert None not in headings
    assert [line[:-1] for line in help_of(name, 80) if re.fullmatch(r"\S.*:", line)] == [
        "Arguments", *dict.fromkeys(headings), "Examples",
    ]  # fmt: skip
    assert [option.name for option in options if not option.help[0].isupper()] == []


def test_convert_shows_its_defaults() -> None:
    text = " ".join(" ".join(help_of("convert", 120)).split())
    defaults = {"--scheme": "keep", "--fallback": "auto", "--search": "ggml", "--device": "auto", "--shard-size": "5GB"}
    for option, default in defaults.items():
        assert re.search(rf"{option} \S+ (?:(?! --).)*\[default: {default}", text), option


def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(EXAMPLES) == set(COMMANDS)
    for name, text in EXAMPLES.items():
        lines = text.splitlines()
        assert 2 <= sum(line.startswith(f"quant {name} ") for line in lines) == len(lines) / 2 <= 3
        for line in lines:
            command, _, file = line.replace(HUB_MODEL, str(ROOT / "examples" / "demo-qwen3")).partition(" > ")
            arguments = shlex.split(command, comments=True)[1:]
            if arguments:
                result = CliRunner().invoke(app, arguments)
                assert result.exit_code == 0, f"{line}\n{result.output}"
                Path(file or "stdout").write_text(result.stdout)
    assert "affine4-g64" in Path("recipe.toml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_help_ends_with_the_examples(name: str) -> None:
    examples = (EXAMPLES[name] if name else FIRST_STEPS).splitlines()
    assert [line.strip() for line in help_of(name, 60)[-len(examples) :]] == examples


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["inspect", "--help"]])
def test_help_loads_nothing_that_computes_or_draws(arguments: list[str]) -> None:
    script = (
        "import sys; from quantcli.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
        "print(*{'numpy', 'mlx', 'numba', 'rich', 'quantcli.recipes'} & sys.modules.keys(), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=True, env=environment)
    assert b"Usage: " in done.stdout and done.stderr == b"\n"


@pytest.mark.parametrize("option", CHOICES)
def test_the_words_of_an_option_are_those_of_the_package(option: str) -> None:
    choice, words = CHOICES[option]
    assert sorted(choice.words) == sorted(words)


@pytest.mark.parametrize("option", CHOICES)
def test_another_word_is_refused_with_the_words_that_are_known(option: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["convert", str(tmp_path), str(tmp_path / "out"), option, "f99"])
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {option}: 'f99' is not ")
    assert done.stderr.rstrip().endswith(f"Choose from {', '.join(CHOICES[option][0].words)}.")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", CHOICES)
def test_the_shell_completes_the_words_of_an_option(option: str) -> None:
    choice: Choice = CHOICES[option][0]
    assert completed(f"quant convert a b {option} ") == list(choice.words)
    word = choice.words[-1]
    assert completed(f"quant convert a b {option} {word}") == [word]


def test_the_shell_completes_names_of_schemes_and_families() -> None:
    assert completed("quant convert a b --scheme q4_k") == ["q4_k", "q4_k_m", "q4_k_s"]
    assert completed("quant convert a b --scheme mixed_3") == ["mixed_3_4", "mixed_3_6"]
    assert completed("quant convert a b --fallback au") == ["auto"]
    assert "nvfp4" in completed("quant schemes nvf") and "q4_0" not in completed("quant schemes nvf")
    assert {"qwen3", "qwen3moe"} <= set(completed("quant architectures qwen3"))
