"""Compare variants of one config over seeds: spec, grid of runs, work queue, measures, tables and curves."""
