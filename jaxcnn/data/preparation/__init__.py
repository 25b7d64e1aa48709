"""What makes data sets; not needed to read them."""
