"""What meets the Hub: data sets, metrics, and the model and Space repositories."""
