"""CPU fast paths, called by schemes only: the same bits as the MLX form of the scheme, in less time.

Modules here import numba, so schemes import them inside the method that runs a kernel; those that hold numbers alone
(lanes.py, float32.py, ggml/formats.py) and compiling.py do not. A kernel takes flat arrays
(a slab's groups one after the other) and works through them in chunks that stay in the first-level cache.

    ggml/             GGML's types                      mlx/   MLX's
    llvm/             vector code that is written as LLVM IR
    compile.py        how a function becomes a kernel, and where the machine code is kept; compiling.py: who hears of it
    chunks.py         what kernels share: reading float dtypes, rounding to them
    bits.py           codes into words and back
    lanes.py          how many numbers are worked on side by side;  float32.py: numbers that are computed with
    repack_error.py   how far rounded scales take values

ggml/ and mlx/ do not import each other; both may import llvm/, and all three the files of this folder.
"""
