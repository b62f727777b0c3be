"""Super-blocks: encode.py what is found, pack.py its bytes, decode.py values; q6_k.py, q8_k.py.

search.py has the searches for scales that the blocks of 32 use too; refine.py is q3_k's without a matrix.
"""
