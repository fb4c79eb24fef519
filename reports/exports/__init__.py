"""A run's numbers in the forms of the places where researchers keep them."""
