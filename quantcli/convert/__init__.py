"""From a request to a published output, and what is told of models without converting them.

    planning     what will become of every tensor, before anything is written
    running      a plan carried out: slabs, threads, journal, report, verification
    inspecting   what `inspect` and `schemes` tell
    comparing    what `diff` tells

Each may import those above it in this list.
"""
