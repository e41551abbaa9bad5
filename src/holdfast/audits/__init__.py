"""The main job: every verb on one model and data set, gathered into one page."""
