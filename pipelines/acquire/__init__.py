"""Downloading public data sets and writing a synthetic one."""
