"""What other programs call the arrays of the nets, as data: one module per program."""
