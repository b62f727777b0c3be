"""How many numbers the kernels work on side by side: the widths that loops, IR and the tables they read agree on.

Plain numbers: who needs one loads neither numba nor llvmlite for it.
"""

#: Groups or candidates of a search whose loops LLVM vectorises.
LANES = 16
#: Codebooks: scales, and sums of candidates.
NARROW = 8
#: Codebooks: rows of a list, which is padded to a multiple of it.
WIDE = 16
#: The bits of a number that hold a row's place in a list: no list is longer.
PLACES = 511
