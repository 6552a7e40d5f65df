"""Text in: tokenizers, chat templates, instruction rows and the batches made of them."""
