"""What to do: questions and cited rules turned into a ranked recommendation. Pure."""
