"""llama.cpp loads our GGUF files, reads text as the source's tokenizer does, and generates the source's text."""

import ctypes
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conversions import converted
from tests.peers.pinned import DEMO, MODELS, peer
from tests.targets.test_global_scales import folder

llama_cpp = peer("llama_cpp")

#: Takes llama.cpp's log, and drops it; kept alive here.
SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)

#: Where the tokenizer of an architecture's case lies.
TOKENIZERS = {
    "llama": "spm-llama", "qwen2": "bpe-qwen2", "qwen3": "bpe-qwen2", "mistral": "spm-llama",
    "llama_llama3rope": "bpe-llama3", "llama_linear": "spm-llama", "llama_yarn": "spm-llama",
}  # fmt: skip
TEXTS = (
    "It was a fine morning, and Mr. Weston",
    "don't  stop\n\nnow,   she'll 1234567 miles",
    "naïve café – Ærø ÿ",
    "東京は夜の七時",
    "a🙂b 👩\u200d👩\u200d👧",
    "\ttabs\t\tand trailing  ",
    "x=1;\r\n  y += 2.50\r\n",
    "ALL CAPS I'M you'Ve",
    "a",
    " leading",
)


#: Committed cases on which llama.cpp ends the process.
ABORTS = {"deepseek_v32": "it turns heads of the indexer by matrices of 64, wider than these heads"}


class Runner:
    """One GGUF file in llama.cpp, on the CPU: caches in float32, or with `usual` as its own tools have them.

    Without the extra buffer types, which repack weights for matrix units: this version crashes, on its own files too,
    where a processor has AMX and the system does not let it be used.
    """

    def __init__(self, path: Path, size: int = 128, *, usual: bool = False, threads: int = 2) -> None:
        lib = llama_cpp
        lib.llama_backend_init()
        lib.llama_log_set(SILENT, ctypes.c_void_p(0))
        settings = lib.llama_model_default_params()
        settings.n_gpu_layers, settings.use_extra_bufts = 0, False
        self.model = lib.llama_model_load_from_file(str(path).encode(), settings)
        assert self.model, f"llama.cpp does not load {path}"
        context = lib.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = size
        context.n_threads = context.n_threads_batch = threads
        if not usual:
            context.type_k = context.type_v = 0
            context.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = lib.llama_init_from_model(self.model, context)
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocabulary)

    def __del__(self) -> None:
        if self.model:
            llama_cpp.llama_free(self.context)
            llama_cpp.llama_model_free(self.model)

    def logits(self, ids: list[int], start: int = 0) -> np.ndarray:
        """Logits after each of `ids`, the first of them at position `start` of what was decoded before."""
        memory = llama_cpp.llama_get_memory(self.context)
        if start == 0:
            llama_cpp.llama_memory_clear(memory, True)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, True
        assert llama_cpp.llama_decode(self.context, batch) == 0
        found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (len(ids), self.size)).copy()
        llama_cpp.llama_batch_free(batch)
        return found

    def greedy(self, ids: list[int], count: int) -> list[int]:
        found = [int(self.logits(ids)[-1].argmax())]
        while len(found) < count:
            found.append(int(self.logits(found[-1:], start=len(ids) + len(found) - 1)[-1].argmax()))
        return found

    def tokens(self, text: str, add_special: bool = False) -> list[int]:
        raw = text.encode()
        space = (llama_cpp.llama_token * (len(raw) + 16))()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), space, len(space), add_special, False)
        assert count >= 0
        return list(space[:count])

    def chat_template(self) -> str:
        found = llama_cpp.llama_model_chat_template(self.model, None)
        assert found is not None
        return str(found.decode())

    def eos(self) -> int:
        return int(llama_cpp.llama_vocab_eos(self.vocabulary))


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("scheme", ["f32", "bf16", "f16", "q8_0"])
@pytest.mark.parametrize("name", MODELS)
def test_generates_the_source_text(shared: Path, tmp_path: Path, name: str, scheme: str) -> None:
    folder = shared / "fixtures" / "models" / name
    converted(folder, tmp_path / "out.gguf", scheme=scheme)
    runner = Runner(tmp_path / "out.gguf")
    expected = json.loads((folder / "expected_generation.json").read_text())
    assert runner.tokens(expected["prompt"], add_special=True) == expected["prompt_ids"]
    probe = np.load(folder / "probe_logits.npz")
    difference = apart(runner.logits(probe["input_ids"].tolist()), probe["logits"])
    print(f"largest logit difference {difference:.2g}")
    assert difference < {"f32": 1e-5, "f16": 5e-3, "bf16": 2e-2, "q8_0": 3e-2}[scheme]
    assert runner.greedy(expected["prompt_ids"], 40) == expected["new_ids"][:40]


#: Largest logit difference that each type may cost on the example, over the largest logit.
COARSER = {"q4_0": 0.25, "q4_1": 0.25, "q5_0": 0.15, "q5_1": 0.15, "q6_k": 0.1}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    output = tmp_path_factory.mktemp("example") / "demo-qwen3-f32.gguf"
    converted(DEMO, output, scheme="f32")
    return Runner(output)


@pytest.mark.parametrize("scheme", COARSER)
def test_coarser_types_run(example: Runner, tmp_path: Path, scheme: str) -> None:
    converted(DEMO, tmp_path / "out.gguf", scheme=scheme)
    runner = Runner(tmp_path / "out.gguf")
    ids = example.tokens("My dear Mr. Bennet, have you heard that")
    difference = apart(runner.logits(ids), example.logits(ids))
    print(f"largest logit difference {difference:.2g}")
    assert difference < COARSER[scheme]
    assert len(set(runner.greedy(ids, 20))) > 5


@pytest.mark.parametrize(("scheme", "limit"), [("affine4-g32", 0.02), ("affine4-g64", 0.02), ("affine3-g64", 0.02)])
def test_codes_of_an_mlx_folder(tmp_path: Path, scheme: str, limit: float) -> None:
    """The GGUF that holds an MLX folder's codes computes as the folder decoded to f32 does; 8-bit activations aside."""
    converted(DEMO, tmp_path / "mlx", scheme=scheme)
    converted(tmp_path / "mlx", tmp_path / "codes.gguf", lossless="codes")
    converted(tmp_path / "mlx", tmp_path / "dense.gguf", scheme="f32")
    codes, dense = Runner(tmp_path / "codes.gguf"), Runner(tmp_path / "dense.gguf")
    ids = dense.tokens("My dear Mr. Bennet, have you heard that")
    difference = apart(codes.logits(ids), dense.logits(ids))
    print(f"largest logit difference {difference:.2g}")
    assert difference < limit


def test_split_files(tmp_path: Path) -> None:
    """Given the first part, llama.cpp finds the others and computes what it computes of one file."""
    converted(DEMO, tmp_path / "whole.gguf", scheme="q8_0")
    converted(DEMO, tmp_path / "split.gguf", scheme="q8_0", shard_size=300_000)
    first, *others = sorted(tmp_path.glob("split-*.gguf"))
    assert len(others) > 2
    converted(first, tmp_path / "kept.gguf", keep_split=True)
    whole = Runner(tmp_path / "whole.gguf")
    ids = whole.tokens("My dear Mr. Bennet, have you heard that")
    for path in (first, tmp_path / first.name.replace("split", "kept")):
        assert (Runner(path).logits(ids) == whole.logits(ids)).all()


def test_codes_of_awq(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "micro-awq"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(shared / "fixtures" / "quantized" / "autoawq-gemm-g64" / name, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(shared / "fixtures" / "models" / "micro-llama" / name, folder / name)
    converted(folder, tmp_path / "codes.gguf")
    converted(folder, tmp_path / "dense.gguf", scheme="f32")
    codes, dense = Runner(tmp_path / "codes.gguf"), Runner(tmp_path / "dense.gguf")
    ids = dense.tokens("It was a fine morning, and Mr. Weston", add_special=True)
    difference = apart(codes.logits(ids), dense.logits(ids))
    print(f"largest logit difference {difference:.2g}")
    assert difference < 0.03
    assert codes.greedy(ids, 10) == dense.greedy(ids, 10)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_the_tokenizers(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = shared / "fixtures" / "models" / name
    converted(folder, tmp_path / "out.gguf", scheme="f16")
    runner = Runner(tmp_path / "out.gguf")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert runner.tokens(text) == theirs.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("spelling", ["config.json", "config-v5.json"])
@pytest.mark.parametrize("case", TOKENIZERS)
def test_logits_of_each_architecture(shared: Path, tmp_path: Path, case: str, spelling: str) -> None:
    arch = shared / "fixtures" / "arch"
    folder: Path = tmp_path / case
    folder.mkdir()
    for path in (arch / "_tokenizers" / TOKENIZERS[case]).iterdir():
        if path.suffix != ".gz":
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(arch / case / spelling, folder / "config.json")
    shutil.copyfile(arch / case / "model.safetensors", folder / "model.safetensors")
    converted(folder, tmp_path / "out.gguf", scheme="f32")
    probe = np.load(arch / case / "logits.npz")
    difference = apart(Runner(tmp_path / "out.gguf").logits(probe["input_ids"].tolist()), probe["logits"])
    print(f"largest logit difference {difference:.2g}")
    assert difference < 1e-5


def test_chat_template_and_end_tokens(example: Runner) -> None:
    assert example.chat_template() == (DEMO / "chat_template.jinja").read_text()
    generation = json.loads((DEMO / "generation_config.json").read_text())
    ends = generation["eos_token_id"]
    assert example.eos() in (ends if isinstance(ends, list) else [ends])


@pytest.mark.parametrize("case", ["modelopt", "compressed-tensors"])
def test_global_scales_beside_the_blocks_count(tmp_path: Path, case: str) -> None:
    """llama.cpp, whose CPU rounds activations to 8 bits here, computes what it does of the values in float32."""
    source, _ = folder(tmp_path / "in", case)
    converted(source, tmp_path / "out.gguf")
    converted(tmp_path / "out.gguf", tmp_path / "hf", to="hf", dtype="f32")
    converted(tmp_path / "hf", tmp_path / "dense.gguf")
    ours, dense = (Runner(tmp_path / name).logits(list(range(24))) for name in ("out.gguf", "dense.gguf"))
    assert apart(ours, dense) < 0.05
