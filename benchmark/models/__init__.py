"""What a defense is: its interface, its contract, and the networks that defenses share."""
