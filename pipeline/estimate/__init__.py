"""What a plan would cost and keep, from a short sample of it that is really curated."""
