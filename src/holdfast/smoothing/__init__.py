"""Certificates with a confidence, from running a model on randomly disturbed inputs."""
