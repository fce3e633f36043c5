"""A larger model behind any OpenAI-compatible endpoint writes questions and answers about documents.

prompts   what it is told, plain files; a folder of one's own may take their place
sources   a taxonomy or a folder of texts → what to ask about
ask       many requests at once, each answer kept: what was asked once is never asked again
generate  all of it, and what is kept of the answers and why the rest is dropped
"""
