"""Side-by-side measurements against the stock providers; JSON out."""
