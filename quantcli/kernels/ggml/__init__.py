"""Kernels of GGML's number formats.

    better       `--search best`
    codebooks    iq4_nl iq4_xs, and the IQ1, IQ2 and IQ3 types, whose values stand in books
    blocks       q4_0 q4_1 q5_0 q5_1 q8_0, mxfp4 nvfp4, and the ternary types: blocks with a scale of their own
    k_quants     super-blocks of 256 values: q2_k ... q6_k, q8_k; the searches for scales

Each may import those below it in this list, and the files here: formats.py numbers that schemes need as well, scales.py
largest magnitudes and f16, repack.py codes of blocks in another order.
"""
