"""Benchmarks; each writes a table to the terminal and JSON to `tools/bench/results`."""
