"""A model above 2 GB, compressed and exported: too heavy for the test suite."""
