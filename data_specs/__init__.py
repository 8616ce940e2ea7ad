"""What is on disk: data sets and split files, recipes, the store's schema, fingerprints. It runs nothing."""
