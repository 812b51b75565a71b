"""Any container to 16 kHz mono, heard to its end, and clips encoded for the shards."""
