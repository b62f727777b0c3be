"""`make bench`: what `quant` costs beside mlx-lm, llama.cpp, `cp` and a bare typer application, all in one run.

Runs of the contenders alternate and figures are medians. What counts are the ratios: both sides of one ran on the same
machine in the same minutes. Results are printed and written to benchmarks/RESULTS.md; scratch data (about 8 GB) goes to
build/bench.

    python benchmarks/bench.py --only convert --cases affine4-g64 --runs 1 --layers 2
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_sources import unpacked
from measure import Contender, Cost, alternate, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "RESULTS.md"
PARTS = ("convert", "gguf", "repack", "quantized", "start", "kernels", "ggml", "search")

#: What `mlx_lm.convert` has to be told for each of our schemes.
MLX_LM = {
    "affine4-g64": ("--q-bits", "4", "--q-group-size", "64"),
    "mxfp4": ("--q-mode", "mxfp4"),
    "nvfp4": ("--q-mode", "nvfp4"),
}

#: GGUF files that are repacked to MLX, by what `quant` is told to make them.
REPACKS = {"q4_k": ("--scheme", "q4_k_s", "--pure"), "q4_k_m": ("--scheme", "q4_k_m")}

#: Layouts of Hugging Face's quantizers that are repacked to MLX, see make_quantized.py.
LAYOUTS = ("gptq", "compressed-tensors")

#: What contenders write into the scratch folder: quant, mlx-lm, cp; quant, llama.cpp's converter, its quantizer.
OUTPUTS = ("out-quant", "out-mlx-lm", "out-cp")
GGUFS = ("out-quant.gguf", "out-converter.gguf", "out-quantize.gguf")

#: llama.cpp's number of Q4_K_M.
Q4_K_M = "15"

#: Layers that make a llama of about 400 tensors (9 a layer and 3 more).
MANY_LAYERS = 44


@dataclass(frozen=True)
class Bench:
    """Where things are: quant's own environment, the peers', scratch data."""

    python: Path
    peers: Path | None
    work: Path
    runs: int
    start_runs: int
    layers: int
    llama_cpp: Path | None

    @property
    def quant(self) -> list[str]:
        return [str(self.python.with_name("quant"))]

    def model(self, name: str, *options: str) -> Path:
        """A synthetic checkpoint, made by another process (this one has to stay small)."""
        folder = self.work / name
        run([str(self.python), str(HERE / "make_synthetic.py"), str(folder), *options])
        return folder


def say(line: str) -> None:
    print(line, flush=True)


def clear(*paths: Path) -> Callable[[], None]:
    """A `prepare` that removes what an earlier run left."""

    def remove() -> None:
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    return remove


def conversions(bench: Bench, cases: list[str]) -> list[str]:
    """quant against mlx-lm for each case, with cp and sha256sum as what the bytes alone cost."""
    model = bench.model(f"llama-{bench.layers}", "--layers", str(bench.layers))
    weights = model / "model.safetensors"
    lines = [
        "## Converting",
        "",
        f"A synthetic llama of {bench.layers} layers in bf16, {weights.stat().st_size / 1e9:.2f} GB, to an MLX folder. "
        f"Medians of {bench.runs}.",
        "",
        "| case | contender | CPU s | wall s | peak MB | CPU against mlx-lm | CPU against cp |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scheme in cases:
        say(f"convert to {scheme}")
        lines += _rows(scheme, alternate(_contenders(bench, scheme, model), bench.runs, say))
    return [*lines, ""]


def _contenders(bench: Bench, scheme: str, model: Path) -> list[Contender]:
    ours, theirs, copy = (bench.work / name for name in OUTPUTS)

    def quant(*options: str) -> list[str]:
        return [*bench.quant, "convert", str(model), str(ours), "--scheme", scheme, "--quiet", *options]

    # Compiled kernels are kept between runs, and files lie in memory once they were used: neither is what is measured.
    for command in (["sha256sum", str(model / "model.safetensors")], quant()):
        clear(ours)()
        run(command)
    found = [
        Contender("quant", quant(), clear(ours)),
        Contender("quant --max-memory 300MB", quant("--max-memory", "300MB"), clear(ours)),
        Contender("cp of the source", ["cp", str(model / "model.safetensors"), str(copy)], clear(copy)),
        Contender("sha256sum of the output", ["sha256sum", str(ours / "model.safetensors")]),
    ]
    if bench.peers is not None:
        peer = [str(bench.peers), "-m", "mlx_lm", "convert", "--hf-path", str(model), "--mlx-path", str(theirs), "-q"]
        found.insert(2, Contender("mlx_lm.convert", [*peer, *MLX_LM[scheme]], clear(theirs)))
    return found


def _rows(scheme: str, costs: Mapping[str, Cost]) -> list[str]:
    peer, copy = costs.get("mlx_lm.convert"), costs["cp of the source"]
    return [
        f"| {scheme} | {name} | {cost.cpu:.2f} | {cost.wall:.2f} | {cost.peak / 1e6:.0f} "
        f"| {_ratio(cost, peer)} | {_ratio(cost, copy)} |"
        for name, cost in costs.items()
    ]


def _ratio(cost: Cost, base: Cost | None) -> str:
    return "-" if base is None else f"{cost.cpu / base.cpu:.2f}"


def ggufs(bench: Bench) -> list[str]:
    """bf16 to Q4_K_M with two threads: quant in one go, llama.cpp by its converter and its quantizer."""
    say("convert to q4_k_m")
    model = bench.model(f"llama-{bench.layers}", "--layers", str(bench.layers))
    ours, dense, theirs = (bench.work / name for name in GGUFS)
    quant = [*bench.quant, "convert", str(model), str(ours), "--scheme", "q4_k_m", "--threads", "2", "--quiet"]
    quant += ["--device", "cpu"]
    for command in (["sha256sum", str(model / "model.safetensors")], quant):
        clear(ours)()
        run(command)
    contenders = [Contender("quant", quant, clear(ours))]
    if bench.peers is not None and bench.llama_cpp is not None:
        tool = [str(bench.peers), str(HERE / "llama_tools.py")]
        convert = [*tool, "convert", str(bench.llama_cpp), str(model), str(dense)]
        contenders += [
            Contender("convert_hf_to_gguf.py", convert, clear(dense)),
            Contender("llama-quantize", [*tool, "quantize", str(dense), str(theirs), Q4_K_M, "2"], clear(theirs)),
        ]
    costs = alternate(contenders, bench.runs, say)
    both = [cost for name, cost in costs.items() if name != "quant"]
    if both:
        total = Cost(sum(c.cpu for c in both), sum(c.wall for c in both), max(c.peak for c in both))
        costs["llama.cpp, both"] = total
    lines = [
        "## To Q4_K_M",
        "",
        f"The same model to a GGUF file of Q4_K_M, two threads. Medians of {bench.runs}. llama-quantize is called in "
        "llama-cpp-python's library.",
        "",
        "| contender | CPU s | wall s | peak MB | CPU against llama.cpp |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, cost in costs.items():
        ratio = _ratio(cost, costs.get("llama.cpp, both"))
        lines.append(f"| {name} | {cost.cpu:.2f} | {cost.wall:.2f} | {cost.peak / 1e6:.0f} | {ratio} |")
    return [*lines, ""]


def repacks(bench: Bench) -> list[str]:
    """GGUF to MLX without rounding codes again, against what copying and hashing the same output costs."""
    model = bench.model(f"llama-{bench.layers}", "--layers", str(bench.layers))
    lines = [
        "## Repacking",
        "",
        "GGUF files of the same model to MLX folders, scales in f16, against `cp` and `sha256sum` of the output. "
        f"Medians of {bench.runs}.",
        "",
        "| source | contender | CPU s | wall s | peak MB | CPU against cp + sha256sum |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, options in REPACKS.items():
        say(f"repack {name}")
        source = bench.work / f"llama-{bench.layers}-{name}.gguf"
        if not source.exists():
            run([*bench.quant, "convert", str(model), str(source), *options, "--quiet"])
        lines += _repack_rows(name, alternate(_repackers(bench, source), bench.runs, say))
    return [*lines, ""]


def quantized(bench: Bench) -> list[str]:
    """Checkpoints of 2 GB of Hugging Face's quantizers to MLX, against what copying and hashing the output costs."""
    lines = [
        "## Repacking quantizers' checkpoints",
        "",
        "Synthetic llamas of 2.2 GB, 4 bits in groups of 128, to MLX folders, against `cp` and `sha256sum` of the "
        f"output. Medians of {bench.runs}.",
        "",
        "| source | contender | CPU s | wall s | peak MB | CPU against cp + sha256sum |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for layout in LAYOUTS:
        say(f"repack {layout}")
        source = bench.work / f"quantized-{layout}"
        run([str(bench.python), str(HERE / "make_quantized.py"), str(source), "--layout", layout])
        lines += _repack_rows(layout, alternate(_repackers(bench, source), bench.runs, say))
        clear(source)()
    return [*lines, ""]


def _repack_rows(name: str, costs: Mapping[str, Cost]) -> list[str]:
    base = costs["cp of the output"].cpu + costs["sha256sum of the output"].cpu
    return [
        f"| {name} | {who} | {cost.cpu:.2f} | {cost.wall:.2f} | {cost.peak / 1e6:.0f} | {cost.cpu / base:.2f} |"
        for who, cost in costs.items()
    ]


def _repackers(bench: Bench, source: Path) -> list[Contender]:
    ours, _, copy = (bench.work / name for name in OUTPUTS)
    command = [*bench.quant, "convert", str(source), str(ours), "--quiet"]
    clear(ours)()
    run(command)
    made = str(ours / "model.safetensors")
    return [
        Contender("quant", command, clear(ours)),
        Contender("cp of the output", ["cp", made, str(copy)], clear(copy)),
        Contender("sha256sum of the output", ["sha256sum", made]),
    ]


def starts(bench: Bench) -> list[str]:
    """What a command costs before it does anything, and what `inspect` of many tensors adds."""
    many = bench.model(
        f"many-{MANY_LAYERS}", "--layers", str(MANY_LAYERS), "--hidden", "64", "--intermediate", "128",
        "--heads", "4", "--kv-heads", "4", "--vocab", "256",
    )  # fmt: skip
    say("start and inspect")
    contenders = [
        Contender("bare typer app --help", [str(bench.python), str(HERE / "bare_app.py"), "--help"]),
        Contender("quant --help", [*bench.quant, "--help"]),
        Contender("quant inspect", [*bench.quant, "inspect", str(many)]),
        Contender("quant inspect --json", [*bench.quant, "inspect", str(many), "--json"]),
    ]
    costs = alternate(contenders, bench.start_runs, lambda line: None)
    base = costs["bare typer app --help"]
    lines = [
        "## Starting",
        "",
        f"`inspect` is of a folder of {9 * MANY_LAYERS + 3} tensors. Medians of {bench.start_runs}.",
        "",
        "| command | CPU s | wall s | peak MB | CPU against the bare app |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, cost in costs.items():
        lines.append(f"| {name} | {cost.cpu:.3f} | {cost.wall:.3f} | {cost.peak / 1e6:.0f} | {_ratio(cost, base)} |")
    return [*lines, ""]


def kernels(bench: Bench) -> list[str]:
    """The codecs alone; in a process of its own, because it imports numpy, numba and MLX."""
    say("codecs")
    return _said([str(bench.python), str(HERE / "kernels.py")]).splitlines()


def types(bench: Bench) -> list[str]:
    """GGML's types against libggml and gguf-py, which only the peers' environment has."""
    if bench.peers is None:
        say("SKIPPED: GGML's types, because libggml comes with the peers")
        return []
    say("GGML's types")
    return _said([str(bench.peers), str(HERE / "ggml.py")]).splitlines()


def machine(bench: Bench) -> str:
    """Processor, cores, system and versions: what the figures hang on."""
    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        named = [
            line.partition(":")[2].strip() for line in facts.read_text().splitlines() if line.startswith("model name")
        ]
        model = named[0] if named else model
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}; {_versions(bench.python, 'quantcli', 'mlx', 'numba')}"
        + (f"; peers: {_versions(bench.peers, 'mlx-lm', 'mlx')}" if bench.peers else "; no peers")
    )


def _versions(python: Path, *names: str) -> str:
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return _said([str(python), "-c", code, *names]).strip()


def _said(command: list[str]) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def _peers(given: Path) -> Path | None:
    if given.is_file():
        return given
    say(f"SKIPPED: mlx_lm.convert and llama.cpp, because there is no {given} (make peers sets it up)")
    return None


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="which parts to run")
    parser.add_argument(
        "--cases", nargs="+", choices=list(MLX_LM), default=list(MLX_LM), help="which schemes to convert to"
    )
    parser.add_argument("--runs", type=int, default=3, help="of each conversion [3]")
    parser.add_argument("--start-runs", type=int, default=15, help="of each short command [15]")
    parser.add_argument("--layers", type=int, default=22, help="of the synthetic model [22: 1.1B parameters]")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="scratch data [build/bench]")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-peers" / "bin" / "python", help="a Python that has mlx-lm"
    )
    parser.add_argument(
        "--llama-cpp", type=Path, help="llama.cpp's sources, for its converter [those of llama-cpp-python, downloaded]"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to write [benchmarks/RESULTS.md]")
    return parser.parse_args()


def main() -> None:
    given = options()
    given.work.mkdir(parents=True, exist_ok=True)
    peers = _peers(given.peers)
    sources = given.llama_cpp
    if sources is None and peers is not None and "gguf" in given.only:
        sources = unpacked(peers, given.work, say)
    bench = Bench(Path(sys.executable), peers, given.work, given.runs, given.start_runs, given.layers, sources)
    lines = [
        "# Results",
        "",
        "Written by `make bench`. Ratios count; seconds are this machine's.",
        "",
        machine(bench),
        "",
    ]
    if "convert" in given.only:
        lines += conversions(bench, given.cases)
    if "gguf" in given.only:
        lines += ggufs(bench)
    if "repack" in given.only:
        lines += repacks(bench)
    if "quantized" in given.only:
        lines += quantized(bench)
    if "start" in given.only:
        lines += starts(bench)
    if "kernels" in given.only:
        lines += kernels(bench)
    if "ggml" in given.only:
        lines += ["", *types(bench)]
    if "search" in given.only:
        lines += ["", *_said([str(bench.python), str(HERE / "search_best.py")]).splitlines()]
    clear(*(given.work / name for name in (*OUTPUTS, *GGUFS)))()
    text = "\n".join(lines).rstrip() + "\n"
    given.results.write_text(text)
    say(text)


if __name__ == "__main__":
    main()
