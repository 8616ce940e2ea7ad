"""How much of the annotated actors the views of a store keep, compared with controls of exactly the same area."""
