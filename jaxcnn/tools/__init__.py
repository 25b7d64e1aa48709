"""Thin command lines: python -m jaxcnn.tools.NAME."""
