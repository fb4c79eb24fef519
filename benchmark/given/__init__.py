"""A model and images that the user hands over, evaluated."""
