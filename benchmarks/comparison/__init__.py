"""Seconds and memory of whole comparisons, and of the report over many rows."""
