"""What PyPI gguf's `GGUFReader` reads from GGUF files, in a separate process.

The reader builds arrays for each element of a header: 600 MB for 150,000 tokens with types, scores and as many merges.
That is not memory for weights, so `--max-memory` does not include it, and it is freed with the process.

    asked       [(path, the types of its tensors by number), ...]
    answers     (version of gguf, the types whose blocks it knows), then one for each file:
                    a text        why the reader cannot open it
                    otherwise     ({tensor: (type, row-major shape, absolute offset, bytes)},
                                   {key: (types, the size of each element in bytes, their bytes one after the other)})

The types of an array are its own (9), then those of its first element; the elements of an array of arrays are one list,
as in the reader. Requests and answers are pickles. A file with types that the reader does not know, and would refuse,
is read without those tensors.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import quantcli
from quantcli.containers.ggml_types import BY_ID
from quantcli.errors import Surroundings

Asked = Sequence[tuple[Path, Collection[int]]]

#: Fields that the reader adds to the keys of the file.
COUNTS = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")


#: The program of the other process, which imports the same `quantcli` as this one.
PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("quantcli", sys.argv[1])
sys.modules["quantcli"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["quantcli"])
from quantcli.convert.running.gguf_process import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""


def answers(asked: Asked) -> Generator[Any]:
    """Yield the answers of the other process; closing the generator ends it. Raises `Surroundings` if it dies."""
    with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as log:
        pickle.dump([(str(path), set(types)) for path, types in asked], request)
        request.seek(0)
        with _started(request, log) as (process, output):
            for path in (asked[0][0], *(path for path, _ in asked)):
                try:
                    answer = pickle.load(output)
                except (EOFError, pickle.UnpicklingError) as error:
                    raise Surroundings(f"{path}: {_death(process, log)}. Use --resume to verify again.") from error
                yield answer


@contextmanager
def _started(request: IO[bytes], log: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start the other process; yield it and the file of its answers, and kill it at the end.

    Everything else that it prints goes to `log`. It waits on a pipe that this process holds open, so it ends with this
    process.
    """
    (ours, theirs), (waited, held) = os.pipe(), os.pipe()
    # -P: no module of the working directory. A group of its own: Ctrl-C comes to this process, which ends both.
    command = [sys.executable, "-P", "-c", PROGRAM, str(Path(quantcli.__file__)), str(theirs), str(waited)]
    with ExitStack() as stack:
        output = stack.enter_context(os.fdopen(ours, "rb"))
        stack.callback(os.close, held)
        try:
            process = subprocess.Popen(
                command, stdin=request, stdout=log, stderr=log, pass_fds=[theirs, waited], process_group=0
            )
        finally:
            os.close(theirs)
            os.close(waited)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield process, output


def _death(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Return how the process ended, as a clause with the last line of its log: an exception's name and text."""
    status = process.wait()
    log.seek(0)
    last = log.read().decode(errors="replace").strip().splitlines()[-1:]
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return f"the process that reads it with the gguf library {ended}{''.join(f' ({line})' for line in last)}"


def main(answers_to: int, waited: int) -> None:
    """Run the other process: read the request from stdin, write the answers to a descriptor.

    waited: a descriptor that reaches its end when the requesting process is gone.
    """
    threading.Thread(target=_end_with, args=[waited], daemon=True).start()
    with open(0, "rb") as request, open(answers_to, "wb") as output:
        for answer in read(pickle.load(request)):
            pickle.dump(answer, output)
            output.flush()


def read(asked: Asked) -> Generator[Any]:
    """Yield the answers of `answers`, computed in this process."""
    from gguf import GGML_QUANT_SIZES

    known = {int(number) for number, sizes in GGML_QUANT_SIZES.items() if sizes == _sizes(int(number), sizes)}
    yield version("gguf"), known
    for path, types in asked:
        yield _contents(str(path), known, set(types) <= known)


def _end_with(waited: int) -> None:
    os.read(waited, 1)
    os._exit(1)


def _sizes(number: int, theirs: tuple[int, int]) -> tuple[int, int]:
    """Return ggml's block size and bytes of a type, or the reader's: those of q8_1 differ in gguf 0.19."""
    ours = BY_ID.get(number)
    return (ours.block_size, ours.block_bytes) if ours else theirs


def _contents(path: str, known: Collection[int], is_known: bool) -> Any:
    from gguf import GGUFReader

    class WithoutUnknown(GGUFReader):
        """The reader without tensors of types that it does not know."""

        def _build_tensors(self, start: int, fields: list[Any]) -> None:
            super()._build_tensors(start, [field for field in fields if int(field.parts[4][0]) in known])

    try:
        reader = GGUFReader(path) if is_known else WithoutUnknown(path)
    except (OSError, MemoryError):  # errors of this machine, not of the file
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    tensors = {
        tensor.name: (
            int(tensor.tensor_type), tuple(tensor.shape.tolist())[::-1], int(tensor.data_offset), int(tensor.n_bytes)
        )
        for tensor in reader.tensors
    }  # fmt: skip
    return tensors, dict(_keys(reader.fields))


def _keys(fields: dict[str, Any]) -> Iterator[tuple[str, tuple[tuple[int, ...], list[int], bytes]]]:
    """Yield each key as the reader has it, and free it, because the keys take most of the memory."""
    for name in list(fields):
        field = fields.pop(name)
        if name not in COUNTS:
            elements = [field.parts[index] for index in field.data]
            sizes = [int(element.nbytes) for element in elements]
            yield name, (tuple(map(int, field.types)), sizes, b"".join(element.tobytes() for element in elements))
