"""Markdown of strangers as HTML: rendered where it is harmless, text where it is not (faults, row 30)."""

from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ui.markdown import Growing, blocks

TAGS = set(
    "p br strong em s a code pre div span button ul ol li blockquote h1 h2 h3 h4 h5 h6 hr table thead tbody tr th td"
    " math mrow mi mo mn mfrac msup msub msubsup mtext mspace msqrt mroot mtable mtr mtd mstyle mover munder munderover"
    " mpadded menclose mphantom mmultiscripts mprescripts merror none".split()
)
BRICKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://e.example/a.png)",
    "`",
    "```",
    "```html\n",
    "\n",
    "\n\n",
    "$$",
    "\\(",
    "\\)",
]
BRICKS += [
    "\\[",
    "\\]",
    "[a](javascript:alert(1))",
    "[a](http://e.example)",
    "<http://e.example>",
    "|a|b|\n|-|-|\n",
    "- ",
    "1. ",
    "> ",
    "# ",
    "<b>",
    "&lt;",
    "\\href{x}{y}",
]
BRICKS += ["\\frac{1}{2}", "<!-- ", "<a href='javascript:1'>", "    ", "[r]: http://e.example 'x'\n", "![r]", "*", "\r", "\0", "word "]
PIECES = st.lists(st.one_of(st.sampled_from(BRICKS), st.text(max_size=6)), max_size=25)


class Checker(HTMLParser):
    """Fails on any tag or attribute that could run, load or restyle anything."""

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS, tag
        for name, value in attributes:
            assert not name.startswith("on") and name not in ("src", "style", "srcset", "id"), (tag, name)
            if name == "href":
                assert tag == "a" and not (value or "").lower().lstrip().startswith(("javascript:", "data:text", "vbscript:"))

    def handle_comment(self, data):
        raise AssertionError("a comment")


@given(PIECES)
@example(["$$\\href{javascript:alert(1)}{x}$$"])
@example(["`a\n\n<img src=x>`"])
@example(["| `a | <b>` |\n|-|-|\n"])
def test_nothing_that_runs_or_loads_comes_out(pieces):
    for block in blocks("".join(pieces)):
        Checker().feed(block)


@given(PIECES, st.data())
def test_a_growing_text_is_shown_as_the_whole_one_would_be(pieces, data):
    growing = Growing()
    for piece in pieces:
        growing.add(piece)
        for block in growing.blocks():
            Checker().feed(block)
    assert "".join(growing.blocks(ended=True)).count("<pre") <= "".join(pieces).count("\n") + len(pieces) + 1


def test_code_tables_and_maths_are_rendered():
    html = "".join(
        blocks(
            "Use `x`.\n\n```python\nprint('<b>')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n\\[\nx^2\n- y\n\\]\n\nand \\(a<b\\), $$c$$, $5 and $6"
        )
    )
    assert "<code>x</code>" in html and 'class="copy-code"' in html and '<span class="nb">print</span>' in html
    assert "&lt;b&gt;" in html and "<td>2</td>" in html
    assert html.count("<math") == 3 and "<msup>" in html and "$5 and $6" in html


@pytest.mark.parametrize(
    "text, shown",
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("![cat](http://e.example/a.png)", "![cat](http://e.example/a.png)"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
    ],
)
def test_html_and_images_are_shown_as_text(text, shown):
    assert blocks(text) == [f"<p>{shown}</p>\n"]


def test_links_tell_the_other_side_nothing():
    assert 'rel="noopener noreferrer nofollow"' in blocks("[a](http://e.example)")[0]


def test_wrong_or_huge_maths_is_shown_as_its_source():
    assert "<code" in blocks("\\(\\frac{\\)")[0]
    assert "<math" not in blocks("$$" + "x" * 3_000 + "$$")[0]


@pytest.mark.parametrize("text", ["$5 and $6", "US$5, A$7", "$HOME and $PATH", "$a,$b", "$ x $", "5$"])
def test_prices_and_variables_are_no_maths(text):
    assert blocks(text) == [f"<p>{text}</p>\n"]


def test_single_dollars_are_maths():
    assert "<math" in blocks("So $E = mc^2$.")[0]


def test_settled_blocks_stay_as_they_are():
    growing = Growing()
    seen = []
    text = "".join(f"Paragraph {n}.\n\n- a\n- b\n\n```python\nx = {n}\n```\n\n" for n in range(5))
    for at in range(0, len(text), 7):
        growing.add(text[at : at + 7])
        now = growing.blocks()
        settled = now[: len(growing._kept)]
        assert settled[: len(seen)] == seen
        seen = settled
    assert growing.blocks(ended=True) == blocks(text)
