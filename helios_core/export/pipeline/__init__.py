"""From the lines of a store to the parts of one shard."""
