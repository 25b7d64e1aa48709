"""The papers' result tables with the results of runs."""
