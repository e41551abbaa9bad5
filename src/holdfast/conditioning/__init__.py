"""Whether a certificate about distances makes sense for a model and its inputs."""
