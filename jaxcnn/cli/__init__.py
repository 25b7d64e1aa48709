"""Thin command lines: python -m jaxcnn.cli.NAME."""
