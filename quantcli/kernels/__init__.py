"""CPU fast paths, called by schemes only: the same bits as the MLX form of the scheme, in less time.

Every module here imports numba, so schemes import it inside the method that runs a kernel. A kernel takes flat arrays
(a slab's groups one after the other) and works through them in chunks that stay in the first-level cache.

    compile.py    how a function becomes a kernel, and where the machine code is kept; compiling.py: who hears of it
    vectors.py    codes to values, and the error sums, as vectors
    chunks.py     what kernels share: reading float dtypes, rounding to them, packing codes into words, the error sums
    affine.py     MLX affine grids           mx_floats.py   MXFP4, MXFP8, NVFP4
    ggml_legacy.py, ggml_weighted.py         GGML's blocks of 32: q4_0 q4_1 q5_0 q5_1 q8_0; with an importance matrix
    k_quants.py, k_quants_pack.py            GGML's q2_k q3_k q4_k q5_k: what is found, and its bytes
    k_quants_decode.py                       their values, and q6_k's
    q6_k.py, q8_k.py                         GGML's q6_k (encoding), q8_k
    ggml_search.py, ggml_refine.py           the searches for scales of the blocks above; q3_k's without a matrix
    iq_search.py                             GGML's IQ2 and IQ3: codebooks; iq_start.py: what they begin with,
                                             iq_levels.py: points, iq_lookup.py: rows, iq_sums.py: which are best
    iq1_search.py, iq1_splits.py             GGML's IQ1; which value gets which level
    iq_neighbours.py, iq_nearest.py          a codebook's neighbours, and which of them is nearest
    best_grid.py, best_floats.py             better scales and codes for `--search best`; best_levels.py: the types,
                                             best_errors.py: which encoding of a block is the better one
    iq_values.py                             from codebook rows to values
"""
