"""What the terminal's commands need beyond one library call: asking, watching, the demo."""
