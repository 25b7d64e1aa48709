"""The papers' result tables beside the figures of runs."""
