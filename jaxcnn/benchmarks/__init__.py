"""Measures the speed of jaxcnn on this machine, compared with upper bounds and peers."""
