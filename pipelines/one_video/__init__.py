"""Single videos without a store: motion vectors, boxes, crops."""
