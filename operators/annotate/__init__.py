"""What a kept clip carries besides words: attributes of its speaker and sound, its quality, who speaks, and when."""
