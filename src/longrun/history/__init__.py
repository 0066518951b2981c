"""History: what a model is given of the responses that a run continues. Pure computation."""
