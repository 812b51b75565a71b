"""Which files go in: folders, tars, manifests, S3 prefixes."""
