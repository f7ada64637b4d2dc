"""Ways to steer a trained flow while it samples."""
