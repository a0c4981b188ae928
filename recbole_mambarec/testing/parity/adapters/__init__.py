"""How the published code's names map to ours: one module per model, with the model's name in lower case."""
