"""Labelled sets from elsewhere: utterances with a reference, in the forms in which they are published."""
