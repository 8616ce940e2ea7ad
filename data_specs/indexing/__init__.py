"""Clip tables from the split files, annotations and folders that public data sets ship with."""
