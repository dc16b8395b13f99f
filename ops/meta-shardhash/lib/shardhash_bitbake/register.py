"""Registers the signature handler, and has no public names: BitBake 2.8 trips over some that `handler` has."""

import shardhash_bitbake.handler as _handler

_NAME = _handler.SignatureGeneratorOEEquivHashShardhash.name
