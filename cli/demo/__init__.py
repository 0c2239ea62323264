"""The main job from end to end on a platform of its own, proved from three witnesses."""
