"""Measures models on pairs of content and style: `evaluate`, and the folder of results that it writes."""

from stylezoo.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
