"""tools/consoles.py: console blocks get what their commands print, and hold nothing else."""

from pathlib import Path

import pytest

from tools.consoles import rewritten

TEXT = """Before.

```console
$ quant schemes mxfp4 --json
an old output
$ quant --version
```

```sh
$ quant --version
```
"""


def test_only_the_outputs_of_console_blocks_change(tmp_path: Path) -> None:
    before, block, after = rewritten(TEXT, tmp_path).split("```", 2)
    assert before == "Before.\n\n" and after == TEXT.split("```", 2)[2]
    assert "an old output" not in block
    assert block.startswith("console\n$ quant schemes mxfp4 --json\n{") and '"bits_per_weight": 4.25' in block


def test_what_is_up_to_date_stays(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    new = rewritten(TEXT, tmp_path / "a")
    assert rewritten(new, tmp_path / "b") == new


def test_the_blocks_of_a_document_share_a_folder_with_the_examples(tmp_path: Path) -> None:
    convert = "```console\n$ quant convert examples/demo-qwen3 out.gguf -q\n```\n"
    inspect = "```console\n$ quant inspect out.gguf --filter output_norm.weight\n```\n"
    assert "1024" in rewritten(convert + inspect, tmp_path)
    assert (tmp_path / "out.gguf").is_file()


def test_an_exit_code_has_to_be_shown(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    failing = "```console\n$ quant inspect nowhere\n```\n"
    with pytest.raises(AssertionError, match="exit code 3"):
        rewritten(failing, tmp_path / "a")
    with pytest.raises(AssertionError, match="exit code 3"):
        rewritten(failing.replace("```\n", "$ quant --version\n```\n"), tmp_path / "b")
    shown = failing.replace("nowhere\n", "nowhere\n$ echo $?\n")
    assert "$ quant inspect nowhere\n$ echo $?\n3\n```" in rewritten(shown, tmp_path / "c")


def test_other_programs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ls -l"):
        rewritten("```console\n$ ls -l\n```\n", tmp_path)
