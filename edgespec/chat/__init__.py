"""Text above the engine: templates, prompts, certain text, answers."""
