"""CPU fast paths, called by schemes only: the same bits as the MLX form of the scheme, in less time.

Every module here imports numba, so schemes import it inside the method that runs a kernel. A kernel takes flat arrays
(a slab's groups one after the other) and works through them in chunks that stay in the first-level cache.

    ggml/             GGML's types                      mlx/   MLX's
    llvm/             vector code that is written as LLVM IR
    compile.py        how a function becomes a kernel, and where the machine code is kept; compiling.py: who hears of it
    chunks.py         what kernels share: reading float dtypes, rounding to them
    bits.py           codes into words and back
    lanes.py          how many numbers are worked on side by side
    repack_error.py   how far rounded scales take values
"""
