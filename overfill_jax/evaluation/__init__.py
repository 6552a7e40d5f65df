"""How good the answers are: accuracy, answer loss, and a report that sets systems side by side."""
