"""What fmmloopy is held to: its speed against the machine's limits, against its targets and against another library.

``python -m benchmarks``, from a clone, measures and writes ``results.json``, tables and pictures; with ``--write-docs``
also ``docs/performance.md``. Every measurement runs in a process of its own (`benchmarks.child`), so that peak memory
and the time to the first potentials are those of a user's program, and what crashes takes nothing else with it.
"""
