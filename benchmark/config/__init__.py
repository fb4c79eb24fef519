"""What a run is: spec, presets, budgets, threat model, studies and the attack syntax. No torch."""
