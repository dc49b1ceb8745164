"""Programs around slimgraph that are not part of it: the demo and the benchmarks."""
