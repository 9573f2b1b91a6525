"""What a model family does differently, a few declared lines each; everything else is found by structure."""
