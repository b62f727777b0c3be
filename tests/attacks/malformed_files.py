"""Files that are broken as files: cut off, bytes flipped, headers and JSON that contradict themselves."""

from typing import Any

from tests.attacks.cases import (
    CONFIG,
    GONE,
    INDEX,
    MODEL,
    SETTINGS,
    SMALL,
    TOKENIZER,
    Case,
    Q,
    as_json,
    changed,
    entry,
    file_of,
    header,
    renamed,
    sound,
    tensors,
)


def truncations() -> dict[str, Case]:
    raw = sound("dense")[MODEL]
    start = 8 + int.from_bytes(raw[:8], "little")
    lengths = {0, 1, 4, 7, 8, 9, 10, start // 2, start - 1, start, start + 1, len(raw) // 2, len(raw) - 2, len(raw) - 1}
    lengths |= set(range(100, len(raw), len(raw) // 16))
    cases = {f"{MODEL} cut at {n}": Case({MODEL: raw[:n]}) for n in sorted(lengths)}
    for number in sorted({0, 3, 4, 8, 23, 24, 40, *range(60, len(SMALL) - 100, len(SMALL) // 14)}):
        cases[f"GGUF cut at {number}"] = Case({"a.gguf": SMALL[:number]}, source="a.gguf")
    for file in (CONFIG, TOKENIZER, SETTINGS):
        whole = sound("dense")[file]
        for part in (0, 1, len(whole) // 2, len(whole) - 1):
            inspect = 3 if file == CONFIG else 0
            cases[f"{file} cut at {part}"] = Case({file: whole[:part]}, inspect=inspect, output="out.gguf")
    return cases


def flips() -> dict[str, Case]:
    raw = sound("dense")[MODEL]
    start = 8 + int.from_bytes(raw[:8], "little")
    cases = {}
    for at in [*range(8), *range(8, start, start // 24)]:
        broken = raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :]
        cases[f"{MODEL} flipped at {at}"] = Case({MODEL: broken})
    digits = [at for at in range(8, start) if raw[at : at + 1].isdigit() and raw[at - 1 : at] in b"[ "]
    for at in digits[:: max(1, len(digits) // 20)]:
        broken = raw[:at] + (b"7" if raw[at : at + 1] != b"7" else b"1") + raw[at + 1 :]
        cases[f"{MODEL} another digit at {at}"] = Case({MODEL: broken})
    for at in (0, 3, 4, 8, 12, 15, 16, 20, 23, 24, 31):
        broken = SMALL[:at] + bytes([SMALL[at] ^ 0x80]) + SMALL[at + 1 :]
        cases[f"GGUF flipped at {at}"] = Case({"a.gguf": broken}, source="a.gguf")
    return cases


def headers() -> dict[str, Case]:
    members, data = header()
    text = as_json(members)
    name = f"{Q}.weight"
    begin, end = members[name]["data_offsets"]
    other = members["lm_head.weight"]["data_offsets"]
    cases = {
        "offsets overlap": entry(data_offsets=[begin - 2, end - 2]),
        "offsets of another tensor": entry(data_offsets=[other[0], other[0] + end - begin]),
        "offsets out of range": entry(data_offsets=[len(data), len(data) + end - begin]),
        "offsets far out": entry(data_offsets=[2**62, 2**62 + end - begin]),
        "offsets above 2**64": entry(data_offsets=[2**64, 2**64 + end - begin]),
        "offsets negative": entry(data_offsets=[-2, end - begin - 2]),
        "offsets turned round": entry(data_offsets=[end, begin]),
        "offsets of floats": entry(data_offsets=[float(begin), float(end)]),
        "offsets of texts": entry(data_offsets=[str(begin), str(end)]),
        "offsets of bools": entry(data_offsets=[False, True]),
        "one offset": entry(data_offsets=[begin]),
        "three offsets": entry(data_offsets=[begin, end, end]),
        "offsets null": entry(data_offsets=None),
        "offsets NaN": entry(data_offsets=[float("nan"), float("inf")]),
        "no offsets": entry(data_offsets=GONE),
        "no dtype": entry(dtype=GONE),
        "no shape": entry(shape=GONE),
        "dtype unknown": entry(dtype="BF17"),
        "dtype in lower case": entry(dtype="bf16"),
        "dtype a number": entry(dtype=16),
        "dtype a list": entry(dtype=["BF16"]),
        "dtype wider": entry(dtype="F32"),
        "dtype narrower": entry(dtype="I8"),
        "dtype of half bytes": entry(dtype="F4"),
        "shape huge": entry(shape=[2**62, 2**62]),
        "shape that overflows to its size": entry(shape=[2**32, 2**32, 64, 64]),
        "shape huge with a zero": entry(shape=[2**63, 0]),
        "shape negative": entry(shape=[-64, -64]),
        "shape of floats": entry(shape=[64.0, 64.0]),
        "shape of texts": entry(shape=["64", "64"]),
        "shape a number": entry(shape=4096),
        "shape of lists": entry(shape=[[64], [64]]),
        "65 dimensions": entry(shape=[1] * 64 + [4096]),
        "an entry that is a list": {**file_of(as_json({**members, name: [1, 2]}), data)},
        "an entry that is null": {**file_of(as_json({**members, name: None}), data)},
        "a name twice": file_of(text[:-1] + b', "' + name.encode() + b'": ' + as_json(members[name]) + b"}", data),
        "a name with a line break": renamed("a\nerror: b"),
        "a name with an escape": renamed("a\x1b[2Jb"),
        "a name of half a surrogate": renamed("a\ud800b"),
        "an empty name": renamed(""),
        "metadata of numbers": file_of(as_json({**members, "__metadata__": {"a": 1}}), data),
        "metadata a list": file_of(as_json({**members, "__metadata__": [1]}), data),
        "header a list": file_of(b"[" + text + b"]", data),
        "header twice": file_of(text + text, data),
        "header not UTF-8": file_of(text[:-1] + b', "\xff": 1}', data),
        "header nested 100,000 deep": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", data),
        "header nested 900 deep": file_of(text[:-1] + b', "a":' + b"[" * 900 + b"]" * 900 + b"}", data),
        "header with a number of 10,000 digits": file_of(text[:-1] + b', "a": ' + b"9" * 10_000 + b"}", data),
        "header empty": file_of(b"", data),
        "header of 2**64 - 1 bytes": file_of(text, data, 2**64 - 1),
        "header of 99 MB": file_of(text, data, 99_000_000),
        "header one byte longer": file_of(text, data, len(text) + 1),
        "a byte behind the last tensor": file_of(text, data + b"\0"),
        "a pickle": {MODEL: b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00." + bytes(64)},
        "a zip, as torch.save writes": {MODEL: b"PK\x03\x04" + bytes(64)},
        "a git-lfs pointer": {MODEL: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"},
        "a GGUF file under another name": {MODEL: SMALL},
        "no tensors at all": file_of(b"{}", b""),
        "no tensor file": {MODEL: None},
    }
    made = {f"safetensors: {what}": Case(files) for what, files in cases.items()}
    made["safetensors: no tensors at all"] = Case(cases["no tensors at all"], inspect=0)
    made["pickles only"] = Case({MODEL: None, "pytorch_model.bin": b"\x80\x02."}, code=4)
    made["a pickle named as the source"] = Case({"m.bin": b"\x80\x02."}, source="m.bin")
    made["a pickle called .gguf"] = Case({"m.gguf": b"\x80\x04." + bytes(60)}, source="m.gguf")
    made["tensor files of any name, no index"] = Case(
        {MODEL: None, "a.safetensors": sound("dense")[MODEL], "b.safetensors": sound("dense")[MODEL]}
    )
    made["the same tensors in two files"] = Case({"model-2.safetensors": sound("dense")[MODEL]})
    return made


def indexes() -> dict[str, Case]:
    names = list(tensors("dense"))

    def index(to: Any) -> bytes:
        return as_json({"weight_map": {**dict.fromkeys(names, MODEL), names[0]: to}})

    cases: dict[str, bytes] = {
        f"places a tensor in {to!r}": index(to)
        for to in (
            "../m/model.safetensors", "/etc/passwd", "/etc/model.safetensors", "a/../../x.safetensors",
            "..\\x.safetensors", "model.safetensors\0", "x\0.safetensors", "config.json",
            "model.bin", "", 7, None, ["a"], {}, "a/b/c.safetensors", "./../model.safetensors",
            "https://a/b.safetensors",
        )
    }  # fmt: skip
    cases |= {
        "is empty": b"",
        "is no JSON": b"weight_map",
        "is a list": b"[]",
        "has no map": b"{}",
        "has an empty map": b'{"weight_map": {}}',
        "has a map that is a list": b'{"weight_map": ["a"]}',
        "names a tensor twice": b'{"weight_map": {"a": "model.safetensors", "a": "model.safetensors"}}',
        "is nested deep": b'{"weight_map": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    }
    return {f"index {what}": Case({INDEX: data}) for what, data in cases.items()}


def configs() -> dict[str, Case]:
    deep = b"[" * 900 + b"]" * 900
    whole = sound("dense")[CONFIG]
    cases: dict[str, bytes | None] = {
        "is gone": None,
        "is empty": b"",
        "is no JSON": b"model_type: llama",
        "is a list": b"[1]",
        "is a number": b"4",
        "is a text": b'"llama"',
        "is null": b"null",
        "is UTF-16": whole.decode().encode("utf-16"),
        "is not UTF-8": b'{"a": "\xff"}',
        "has a key twice": whole[:-1] + b', "model_type": "llama"}',
        "is nested 900 deep": whole[:-1] + b', "a": ' + deep + b"}",
        "is nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "has a number of 10,000 digits": whole[:-1] + b', "a": ' + b"9" * 10_000 + b"}",
        "goes on behind its end": whole + b"}",
        "has single quotes": b"{'model_type': 'llama'}",
    }
    made = {f"config.json {what}": Case({CONFIG: data}) for what, data in cases.items()}
    for settings in ([1], "awq", 4, True):
        made[f"config.json: quantization_config is {settings!r}"] = Case(
            changed(CONFIG, "quantization_config", to=settings)
        )
    for method in ("eetq", "vptq", "x\ny", 7, None, {"a": 1}):
        files = changed(CONFIG, "quantization_config", to={"quant_method": method})
        made[f"config.json: quant_method is {method!r}"] = Case(files, code=4)
    return made


CASES: dict[str, Case] = truncations() | flips() | headers() | indexes() | configs()
