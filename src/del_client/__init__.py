"""The device: prompts in, randomised segments out, answers back."""
