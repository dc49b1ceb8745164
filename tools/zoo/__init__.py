"""The zoo: how many real architectures slimgraph handles, and how exactly."""
