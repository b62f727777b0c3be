"""`quant`, slowed down so that it can be interrupted at any stage: python slow_quant.py NAP ARGUMENTS...

It rests NAP seconds after every slab, around every rename and before every file is hashed, and journals every step.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from quantcli.cli.app import main
from quantcli.convert.running import conversion, renames, run


def rested(function: Callable[..., Any], nap: float) -> Callable[..., Any]:
    """`function` with a nap before and after."""

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(nap)
        result = function(*arguments, **options)
        time.sleep(nap)
        return result

    return slow


if __name__ == "__main__":
    nap = float(sys.argv.pop(1))
    run.FLUSH_SECONDS = 0.0
    run._Work._one = rested(run._Work._one, nap)  # type: ignore[method-assign]
    conversion.sha256_of = rested(conversion.sha256_of, nap)
    os.rename, renames.flagged_rename = rested(os.rename, nap), rested(renames.flagged_rename, nap)
    main()
