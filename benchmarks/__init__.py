"""Measurements behind the numbers in docs/; none of them is a test."""
