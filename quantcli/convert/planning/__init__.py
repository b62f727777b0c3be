"""Recipe, source and target become a Plan: every output byte has its place before one is written.

request.py   what was asked for                 plan.py     the whole; steps.py: what it is made of
decide*.py   the recipe; chosen.py: what an     choose.py   the scheme of each weight, or what takes its place
             entry decided, and why             routes.py   copy, repack, quantize, dequantize, requantize
"""
