"""Tools that make data sets; not needed to read them."""
