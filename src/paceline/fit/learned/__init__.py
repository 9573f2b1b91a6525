"""Learned controllers trained on a profile: the data, two learners and the artifact. No model runs here."""
