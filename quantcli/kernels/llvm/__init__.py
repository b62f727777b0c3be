"""Kernels written as LLVM IR with llvmlite, where what LLVM makes of a Python loop is several times slower.

    vectors.py   sixteen (codebooks: eight) stored codes to as many float32 values; its docstring lists them all
    nearest.py   which of some codebook rows is nearest to a few values, for eight scales or sixteen rows side by side
    sums.py      how much the rows of eight candidates explain of a group
    splits.py    IQ1: which of the ways to split sorted values into three levels is best
    measure.py   the error sums of a chunk
    emit.py      names of types and pieces of IR that these share

Each file makes numba intrinsics: a function that numba types, and that emits straight vector code where it is called,
without branches or with one loop. Additions and products are separate instructions in a fixed order, each rounded
once, unless the file says where fusing them cannot change a result. No target is named: LLVM splits the vectors to what
the processor has.
"""
