"""The paper: what it publishes, beside what runs measured."""
