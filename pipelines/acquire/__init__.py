"""Fetching public data sets, and writing a synthetic one."""
