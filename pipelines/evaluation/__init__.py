"""How much of annotated actors the views of a store keep, beside controls of exactly the same area."""
