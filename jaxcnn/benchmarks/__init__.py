"""How fast jaxcnn is, beside its bounds and its peers, on the machine at hand."""
