"""Numbers of ggml's formats that kernels and schemes share. No compiler is loaded for them.

Source: ggml-common.h, ggml-quants.c (llama.cpp).
"""

import numpy as np

#: Values of a block, and of a super-block: `QK4_0` and its like, `QK_K`.
BLOCK, SUPER = 32, 256
#: Below this largest magnitude ggml takes a group, or a super-block's scales, for zero: `GROUP_MAX_EPS`.
EPSILON = np.float32(1e-15)
#: q6_k: values of a group, groups of a super-block.
Q6_GROUP, Q6_GROUPS = 16, 16
#: iq4_xs: groups of a super-block, of BLOCK values each.
IQ4_GROUPS = 8
#: iq4_nl, iq4_xs: the value of each code, `kvalues_iq4nl`.
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#: iq1_s, iq1_m: values of a row of the book.
IQ1_WIDTH = 8
