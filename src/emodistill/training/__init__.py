"""From a recipe and a corpus to trained models, predictions and scores."""
