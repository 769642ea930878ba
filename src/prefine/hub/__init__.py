"""Runs on the Hugging Face hub: push a model, its pairs and the report; pull them back."""
