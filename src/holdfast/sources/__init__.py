"""Models and data from files, read as data and never as code."""
