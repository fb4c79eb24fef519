"""Two defenses, an attack and a dataset for defensebench, to copy from."""
