"""Training: a run is opened or resumed, the trainer loops over chunks, hooks act between them."""
