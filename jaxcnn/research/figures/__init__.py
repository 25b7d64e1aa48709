"""The papers' pictures of what a net learned."""
