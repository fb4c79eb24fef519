"""Pages of their own: the cross-check and the speed measurement."""
