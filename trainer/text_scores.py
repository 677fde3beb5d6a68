"""How near an answer comes to its reference: exact match and ROUGE-L.

ROUGE-L is written out here: the ``rouge-score`` package brings absl and nltk along, and keeps only
the letters a to z and digits, so that an answer in Greek or Chinese would score nothing.
"""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")


def is_exact(output: str, reference: str) -> bool:
    """Return whether two texts are the same but for case, punctuation and white space."""
    return _plain(output) == _plain(reference)


def _plain(text: str) -> str:
    """Case folded, compatible forms united, symbols kept, punctuation and runs of space gone."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (" " if unicodedata.category(one).startswith("P") else one for one in folded)
    return " ".join("".join(kept).split())


def rouge_l(output: str, reference: str) -> float:
    """Return ROUGE-L: the F1 of the longest common subsequence of words, 0 to 1.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), section 3, with
    equal weight for precision and recall, without stemming. In scripts that put no spaces between
    words each sign counts as a word. Two texts without any words are equal: 1.
    """
    first, second = _words(output), _words(reference)
    if not first and not second:
        return 1.0
    common = _longest_common(first, second)
    return 2 * common / (len(first) + len(second))


def _words(text: str) -> list[str]:
    runs = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for run in runs for word in (run if _has_no_spaces(run) else [run])]


def _has_no_spaces(run: str) -> bool:
    """Whether a run of letters is of a script written without spaces: Chinese, Japanese, Thai."""
    return any("\u0e00" <= one <= "\u0eff" or "\u3040" <= one <= "\u9fff" for one in run)


def _longest_common(first: list[str], second: list[str]) -> int:
    lengths = [0] * (len(second) + 1)
    for word in first:
        above_left = 0
        for column, other in enumerate(second, start=1):
            above = lengths[column]
            lengths[column] = above_left + 1 if word == other else max(above, lengths[column - 1])
            above_left = above
    return lengths[-1]
