"""Reports without converting: survey.py and rules.py on a model, catalogue.py on schemes, architectures.py."""
