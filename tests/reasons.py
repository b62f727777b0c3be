"""What tests hold of the reasons why a weight does not fit: the numbers and names in them, whatever the words."""

import re


def facts(reason: object) -> list[str]:
    """The numbers in a reason, and the names of schemes and dtypes that have one, in order.

    >>> facts("its group size 16 is not a multiple of 32"), facts("its scales are f32, but those of mxfp4 are f8_e8m0")
    (['16', '32'], ['f32', 'mxfp4', 'f8_e8m0'])
    """
    return re.findall(r"[a-z]*\d\w*(?:-g\d+)?", str(reason))
