"""The small web app that the public namespace runs: a chat page, and the API behind it.

It holds the model's API key, so that no browser needs one; it lets in as many questions as the model can take, and
tells the others their place in the queue; and when the model is not there it says so at once, and notices by itself
when it's back. `python -m hyb.chat`, set by the environment (`hyb.chat.settings`); `hyb.chat.server.run` in a program.

Nothing of `hyb` but its error is imported: the image has this package, and no model, no data, no other stage's code.
"""
