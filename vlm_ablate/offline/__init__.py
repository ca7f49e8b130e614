"""Real pictures, facts and tables that pip packages carry, composed by a seeded generator into exact questions."""
