"""The paper's own defenses: the OT-Classifier and its ablation E-CLA."""
