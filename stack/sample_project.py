"""A small project that the tour sends along to be built."""

from __future__ import annotations

import base64
import io
import tarfile

FILES = {
    "words.py": '''\
"""Counts words."""


def count(text: str) -> dict[str, int]:
    words = text.lower().split()
    return {word: words.count(word) for word in words}
''',
    "test_words.py": """\
import unittest

import words


class WordsTest(unittest.TestCase):
    def test_counts_each_word(self):
        self.assertEqual(words.count("a rose is a rose"), {"a": 2, "rose": 2, "is": 1})

    def test_an_empty_text_has_no_words(self):
        self.assertEqual(words.count(""), {})


if __name__ == "__main__":
    unittest.main()
""",
}

STEPS = (
    {"name": "compile", "commands": ["python3 -m compileall -q .", "ls"]},
    {"name": "test", "commands": ["python3 -m unittest -v"]},
    {
        "name": "package",
        "commands": ["tar -czf /tmp/words.tar.gz *.py", "ls -l /tmp/words.tar.gz"],
    },
)


def sample_archive() -> str:
    """Its files as a tar archive, in base64.

    Not a repository to clone: what sandboxes reach is not ours to widen for a tour.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return base64.b64encode(buffer.getvalue()).decode()
