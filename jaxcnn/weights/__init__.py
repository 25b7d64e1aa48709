"""Weights of other programs, in and out: files, the names and layouts of their arrays, input conventions."""
