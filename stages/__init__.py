"""Verbs made runnable: batching inside a unit, resources, model lifetime."""
