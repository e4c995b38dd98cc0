"""Which of the weak users are handed to the language model, where not all of them can be."""
