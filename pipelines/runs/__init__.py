"""One run over a store: its options, its pending work, its estimated cost, and the clean-up of unused files."""
