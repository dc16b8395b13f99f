"""What BitBake imports when it meets ``addpylib``."""

BBIMPORTS = ["watch"]
