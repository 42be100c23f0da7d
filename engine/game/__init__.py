"""The blind game: whose answer is it? Decks of answers, rounds with the key on the host, honest scores."""
