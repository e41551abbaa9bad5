"""The main job: plan, run, gather."""
