"""File formats: each module reads the headers of one, and its arrays when they are asked for."""
