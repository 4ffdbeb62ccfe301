CARDS: dict[str, object] = {}
