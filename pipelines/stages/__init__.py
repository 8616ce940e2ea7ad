"""The four stages, each a function over one shard of clips."""
