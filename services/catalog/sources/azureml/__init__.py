"""The public azureml-assets format."""
