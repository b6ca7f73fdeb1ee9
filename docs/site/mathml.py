"""Equations as MathML, which browsers draw without a script and without a network."""

from docutils.utils.math.latex2mathml import tex2mathml


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))


def _inline(self, node):
    self.body.append(tex2mathml(node.astext()))
    _skip()


def _block(self, node):
    tex = node.astext()
    if r"\\" in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    self.body.append(f'<div class="math">{tex2mathml(tex, as_block=True)}</div>\n')
    _skip()


def _skip():
    from docutils.nodes import SkipNode

    raise SkipNode
