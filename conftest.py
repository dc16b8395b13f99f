"""Hypothesis settings for all tests; ``HYPOTHESIS_PROFILE=soak`` looks twenty times longer."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: no test here judges by the clock. The blob reproduces a failure elsewhere.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("soak", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
