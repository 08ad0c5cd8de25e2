"""Recovery: short training after a model was made smaller or sparse. `recover` in recover.py is what users call."""
