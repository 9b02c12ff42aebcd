"""What a clip needs besides the model: context windows and start noise."""
