"""Stands before MLflow, in its process: what a job may write there, and how much. No Django."""
