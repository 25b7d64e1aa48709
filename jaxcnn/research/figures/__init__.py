"""The papers' figures of what a net learned."""
