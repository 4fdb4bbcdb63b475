"""From a collector to the pool: the push service, what becomes of a chunk, and whom it is believed."""
