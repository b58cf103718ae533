"""`make chaos`: everything breaks while tasks wait, ours and the stock operators' beside them, and the books are checked."""
