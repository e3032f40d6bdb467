"""Training: from prepared songs and one YAML file to a model file."""
