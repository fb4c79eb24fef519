"""What the paper's defense is compared with."""
