"""Benchmarks: what is reported are ratios and medians of one run on one machine."""
