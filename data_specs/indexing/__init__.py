"""Clip tables from what public data sets ship with: their split files, annotations and folders."""
