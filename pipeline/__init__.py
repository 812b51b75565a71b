"""Order, execution, accounting and storage of curation."""
