"""What tinyconv costs, and what its peers cost, on the machine at hand."""
