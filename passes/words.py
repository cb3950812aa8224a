"""Words that go with numbers and nouns in messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and its noun, which is one of many unless the number is 1.

    >>> counted(1, "stage"), counted(1200, "step"), counted(0, "boundary")
    ('1 stage', '1,200 steps', '0 boundaries')
    >>> counted(2, "batch"), counted(2, "epoch")
    ('2 batches', '2 epochs')
    """
    end = "es" if noun.endswith(("s", "tch")) else "s"
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}{end}"
    return f"{count:,} {noun if count == 1 else many}"


def one(noun: str) -> str:
    """A noun with the article for one of its kind.

    >>> one("policy"), one("interface")
    ('a policy', 'an interface')
    """
    return f"{'an' if noun[:1] in set('aeiou') else 'a'} {noun}"
