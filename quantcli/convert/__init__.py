"""From a request to a published output, and reports about models without converting them.

    planning     decides the step of every tensor before anything is written
    running      runs a plan: slabs, threads, journal, report, verification
    inspecting   collects what `inspect`, `schemes` and `architectures` print
    comparing    collects what `diff` prints

Each may import those above it in this list.
"""
