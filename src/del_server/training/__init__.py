"""Training of codecs: recipes, text, the loop, and baking what it learned into a codec's folder."""
