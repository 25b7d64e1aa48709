"""Sources: indexable tables of encoded images, one module a kind."""
