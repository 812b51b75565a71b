"""From the shards of finished runs to everything that training needs."""
