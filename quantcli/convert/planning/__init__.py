"""Planning: recipe, source and target become a `Plan`, in which every output byte has its place before any is written.

request.py   the options of a conversion        plan.py     makes the plan; steps.py: its parts
decide*.py   the scheme of each weight by       choose.py   the step of each weight: its scheme or a fallback
             recipes; chosen.py: the result     routes.py   copy, repack, quantize, dequantize, requantize
"""
