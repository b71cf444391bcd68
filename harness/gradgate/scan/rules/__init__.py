"""One module a rule: its name, its messages, its page's part about the source, what it looks for without the flow."""
