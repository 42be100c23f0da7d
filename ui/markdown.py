"""Markdown of models and strangers as HTML that is safe to show: code, tables and maths are rendered, while HTML and
images stay text. Text that streams in costs its newest blocks only."""

import functools
import html
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MAX_HIGHLIGHTED_CHARS = 20_000
MAX_MATHS_CHARS = 2_000
# Blocks at the end of a growing text that more text may still change: a line just begun can join the block before it.
OPEN_BLOCKS = 2
_MATHS = (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False))
# As pandoc reads them: no space inside, and no letter or digit after, so that prices and variables stay text.
_SINGLE_DOLLARS = re.compile(r"\$(?![\s$])([^$\n]*[^$\s\\])\$(?![\w$])")
# What MathML attributes may do: spacing and shape, no links, classes or styles.
_MATHS_ATTRIBUTES = set(
    "accent accentunder columnalign columnlines columnspacing depth display displaystyle fence form frame height largeop"
    " linethickness lspace mathvariant maxsize minsize movablelimits notation rowlines rowspacing rspace scriptlevel"
    " separator stretchy symmetric voffset width".split()
)


def blocks(text: str) -> list[str]:
    """The HTML of each block (paragraph, list, code, table) of a finished text."""
    return Growing(text).blocks(ended=True)


class Growing:
    """A text that grows: `add` what is new, ask for the `blocks` so far. Blocks that can no longer change are kept."""

    def __init__(self, text: str = ""):
        self._rest = ""
        self._kept: list[str] = []
        self.add(text)

    def add(self, text: str) -> None:
        """More of the text."""
        self._rest += text.replace("\r\n", "\n").replace("\r", "\n")

    def blocks(self, ended: bool = False) -> list[str]:
        """The HTML of each block. Code that still grows is not coloured yet, its lines do not move when it is."""
        groups = _groups(_parser().parse(self._rest))
        settled = len(groups) if ended else max(0, len(groups) - OPEN_BLOCKS)
        self._kept += [_html(group, final=True) for group in groups[:settled]]
        if settled:
            lines = self._rest.split("\n")
            start = groups[settled][0].map[0] if settled < len(groups) else len(lines)
            self._rest = "\n".join(lines[start:])
        return [*self._kept, *(_html(group, final=False) for group in groups[settled:])]


def _groups(tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens of each top-level block."""
    groups: list[list[Token]] = []
    for token in tokens:
        if token.level == 0 and token.nesting >= 0:
            groups.append([])
        groups[-1].append(token)
    return groups


def _html(tokens: Sequence[Token], final: bool) -> str:
    return _parser().renderer.render(tokens, _parser().options, {"final": final})


@functools.cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    parser.inline.ruler.before("escape", "maths", _inline_maths)
    parser.block.ruler.before("fence", "maths", _block_maths, {"alt": ["paragraph", "blockquote", "list"]})
    return parser


def _inline_maths(state: StateInline, silent: bool) -> bool:
    for opening, closing, display in _MATHS:
        if state.src.startswith(opening, state.pos):
            start = state.pos + len(opening)
            end = state.src.find(closing, start)
            if end > start and end < state.posMax:
                if not silent:
                    token = state.push("maths", "math", 0)
                    token.content, token.meta = state.src[start:end], {"display": display}
                state.pos = end + len(closing)
                return True
    single = _SINGLE_DOLLARS.match(state.src, state.pos, state.posMax)
    if single and not silent:
        token = state.push("maths", "math", 0)
        token.content, token.meta = single[1], {"display": False}
    if single:
        state.pos = single.end()
    return bool(single)


def _block_maths(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """Display maths that begins a line and ends one; lines between may look like lists, so they are taken first."""
    if state.is_code_block(first):
        return False
    begins = state.bMarks[first] + state.tShift[first]
    for opening, closing, display in _MATHS:
        if display and state.src.startswith(opening, begins):
            for line in range(first, last):
                text = state.src[begins + len(opening) if line == first else state.bMarks[line] : state.eMarks[line]].rstrip()
                if text.endswith(closing) or (line > first and not text):
                    break
            else:
                return False
            if not text:
                return False
            if not silent:
                source = state.src[begins + len(opening) : state.eMarks[line]].rstrip().removesuffix(closing)
                if closing in source:
                    return False
                token = state.push("maths", "math", 0)
                token.content, token.map, token.block, token.meta = source, [first, line + 1], True, {"display": True}
                state.line = line + 1
            return True
    return False


class _Renderer(RendererHTML):
    """What differs from plain CommonMark output. Every text goes out escaped."""

    def fence(self, tokens: Sequence[Token], index: int, options: object, env: dict) -> str:
        token = tokens[index]
        language = (token.info.split() or [""])[0][:40]
        label = html.escape(language) or "text"
        return (
            f'<div class="code"><div class="code-head"><span>{label}</span><button type="button" class="copy-code">Copy</button></div>'
            f'<pre tabindex="0"><code>{_coloured(token.content, language if env.get("final") else "")}</code></pre></div>\n'
        )

    code_block = fence

    def image(self, tokens: Sequence[Token], index: int, options: object, env: dict) -> str:
        token = tokens[index]
        title = f' "{token.attrs["title"]}"' if "title" in token.attrs else ""
        return html.escape(f"![{token.content}]({token.attrs['src']}{title})")

    def link_open(self, tokens: Sequence[Token], index: int, options: object, env: dict) -> str:
        tokens[index].attrs |= {"target": "_blank", "rel": "noopener noreferrer nofollow"}
        return self.renderToken(tokens, index, options, env)

    def table_open(self, tokens: Sequence[Token], index: int, options: object, env: dict) -> str:
        return '<div class="table" tabindex="0"><table>'

    def table_close(self, tokens: Sequence[Token], index: int, options: object, env: dict) -> str:
        return "</table></div>"

    def maths(self, tokens: Sequence[Token], index: int, options: object, env: dict) -> str:
        return _maths(tokens[index].content, tokens[index].meta["display"])


def _coloured(code: str, language: str) -> str:
    """Code as HTML with Pygments' classes; in one colour where the language is unknown or the code long."""
    if not language or len(code) > MAX_HIGHLIGHTED_CHARS:
        return html.escape(code)
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return html.escape(code)
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


@functools.lru_cache(maxsize=256)
def _maths(source: str, display: bool) -> str:
    """MathML of TeX, or its source where it cannot be read."""
    from latex2mathml.converter import convert_to_element

    kind = "block" if display else "inline"
    try:
        if len(source) > MAX_MATHS_CHARS:
            raise ValueError("too long")
        element = convert_to_element(source, display=kind)
    except Exception:  # half-typed or wrong TeX raises many kinds
        return f'<code class="maths">{html.escape(source)}</code>'
    for each in element.iter():
        each.attrib = {name: value for name, value in each.attrib.items() if name in _MATHS_ATTRIBUTES}
        each.text = html.unescape(each.text) if each.text else each.text
    tex = re.sub(r"\s+", " ", source.strip())
    return (
        f'<span class="maths {kind}" role="math" aria-label="{html.escape(tex)}">{ElementTree.tostring(element, encoding="unicode")}</span>'
    )
