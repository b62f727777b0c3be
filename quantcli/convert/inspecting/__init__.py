"""What is told without converting: survey.py and rules.py of a model, catalogue.py of the schemes."""
