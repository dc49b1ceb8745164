"""Experiments on real data: what the methods come to, beside what others make."""
