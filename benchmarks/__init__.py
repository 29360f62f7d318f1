"""Measure fmmloopy against the machine's limits, against its targets, and against another library.

``python -m benchmarks``, from a clone, measures and writes ``results.jsonl``, tables and pictures. With the option
``--write-docs`` it keeps the records in ``benchmarks/results``, one per line, and writes the page
``docs/generated/performance.md`` from them. Every measurement runs in its own process (`benchmarks.child`), so
that peak memory and the time to the first potentials are those of a user's program, and a crash affects no other
measurement.
"""
