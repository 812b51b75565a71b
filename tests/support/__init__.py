"""What several tests share: engines, servers, corpora, finished runs."""
