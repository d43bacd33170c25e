"""Where things lie: folders and model names."""
