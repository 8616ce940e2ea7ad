"""One run over a store: what is asked for, what is left to do, what it costs and what to clean up."""
