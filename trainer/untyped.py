"""The libraries whose types a checker cannot follow: here they are ``Any``.

bitsandbytes and peft ship no type information, and transformers' lazy imports hide theirs.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes
import bitsandbytes.autograd._functions
import peft as _peft
import transformers as _transformers

bnb: Any = bitsandbytes
peft: Any = _peft
transformers: Any = _transformers
