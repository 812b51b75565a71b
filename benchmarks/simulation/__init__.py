"""A discrete-event model of a curation: how its speed grows with workers, checked against measured runs."""
