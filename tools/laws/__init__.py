"""Runs the laws on as many random nets as one likes."""
