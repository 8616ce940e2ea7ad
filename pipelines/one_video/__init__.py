"""One video at a time, without a store: its motion vectors, its box, its crops."""
