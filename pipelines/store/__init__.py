"""Writing a store: shards, records, creation, the lock and verification."""
