"""Reads finished runs, and has the runs made that a comparison of variants needs."""
