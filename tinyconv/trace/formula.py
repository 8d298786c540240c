r"""Formulas, written once in the little LaTeX that the reference's docstrings use: as text, and as MathML.

Known are indices and powers (``x_{n,c}``, ``e^z``), ``\frac``, ``\sqrt``, ``\hat``, ``\text``, Greek letters and signs.
"""

import html
import re

SIGNS = {
    "sum": "∑", "cdot": "·", "times": "×", "max": "max", "log": "log", "exp": "exp", "le": "≤", "ge": "≥", "ne": "≠",
    "leftarrow": "←", "sigma": "σ", "mu": "μ", "gamma": "γ", "beta": "β", "alpha": "α", "epsilon": "ε", "rho": "ρ",
    "theta": "θ", "lambda": "λ", "delta": "δ", "Phi": "Φ", "varphi": "φ", "in": "∈", "infty": "∞", "quad": "  ",
    "sign": "sign", "tanh": "tanh", "min": "min", "mean": "mean", "lVert": "‖", "rVert": "‖", "pi": "π",
    "partial": "∂", "approx": "≈",
}  # fmt: skip
NO_BREAK = "\u00a0"  # as the spaces at both ends of a text are dropped
TOKEN = re.compile(r"\\[A-Za-z]+|\\[,;{}_]|[A-Za-z]+|\d+(?:\.\d+)?|\s+|.")

Tree = list["str | tuple[str, list]"]  # tokens, and ("_", [group]), ("frac", [group, group]) ...


def as_text(latex: str) -> str:
    """On one line: out[n,f] = b[f] + ∑[k] x[n,k] · w[k,f]."""
    return re.sub(r" +", " ", _text(_parse(latex))).strip()


def as_mathml(latex: str) -> str:
    """As an element of a page."""
    return f'<math display="block">{_row(_parse(latex))}</math>'


def _parse(latex: str) -> Tree:
    tokens = [token for token in TOKEN.findall(latex) if token not in ("\\left", "\\right")]
    tree, end = _group(tokens, 0)
    if end != len(tokens):
        raise ValueError(f"A formula with a brace too many: {latex}")
    return tree


def _group(tokens: list[str], start: int) -> tuple[Tree, int]:
    """The tokens up to a closing brace, as a tree, and where that brace stands."""
    tree: Tree = []
    while start < len(tokens) and tokens[start] != "}":
        token = tokens[start]
        start += 1
        if token in ("_", "^"):
            group, start = _argument(tokens, start)
            tree.append((token, [group]))
        elif token in ("\\frac", "\\sqrt", "\\hat", "\\text"):
            groups = []
            for _ in range(2 if token == "\\frac" else 1):
                group, start = _argument(tokens, start)
                groups.append(group)
            tree.append((token[1:], groups))
        elif token == "{":
            group, start = _group(tokens, start)
            start += 1
            tree += group
        else:
            tree.append(token)
    return tree, start


def _argument(tokens: list[str], start: int) -> tuple[Tree, int]:
    while tokens[start].isspace():
        start += 1
    if tokens[start] != "{":
        return [tokens[start]], start + 1
    group, end = _group(tokens, start + 1)
    return group, end + 1


def _sign(token: str) -> str:
    if token.startswith("\\"):
        return "" if token in ("\\,", "\\;") else SIGNS.get(token[1:], token[1:])
    return token


def _text(tree: Tree) -> str:
    found = ""
    for part in tree:
        if isinstance(part, str):
            name = _sign(part)
            found += f" {name} " if part in ("\\cdot", "\\times", "\\leftarrow", "\\quad") else name
            continue
        kind, groups = part
        inside = [_text(group) for group in groups]
        if kind == "_":
            found += f"[{inside[0]}]"
        elif kind == "^":
            found += f"^{inside[0]}" if len(inside[0]) == 1 else f"^({inside[0]})"
        elif kind == "frac":
            found += " / ".join(part if re.fullmatch(r"\w+(\[[^]]*\])?", part) else f"({part})" for part in inside)
        elif kind == "sqrt":
            found += f"√({inside[0]})"
        else:
            found += f"{inside[0]}\u0302" if kind == "hat" else inside[0]
    return found


def _row(tree: Tree) -> str:
    """A group as MathML: indices and powers belong to the element before them."""
    parts: list[str] = []
    scripts: dict[str, str] = {}

    def close() -> None:
        if scripts and parts:
            base, tags = parts.pop(), {"_": "msub", "^": "msup"}
            tag = "msubsup" if len(scripts) == 2 else tags[next(iter(scripts))]
            tag = tag.replace("sub", "under") if base == "<mo>∑</mo>" and tag == "msub" else tag
            parts.append(f"<{tag}>{base}{''.join(scripts[key] for key in '_^' if key in scripts)}</{tag}>")
        scripts.clear()

    for part in tree:
        if isinstance(part, tuple) and part[0] in "_^":
            scripts[part[0]] = f"<mrow>{_row(part[1][0])}</mrow>"
            continue
        close()
        if isinstance(part, str):
            parts += _element(_sign(part))
        else:
            kind, groups = part
            inside = [f"<mrow>{_row(group)}</mrow>" for group in groups]
            if kind == "text":
                text = html.escape(_text(groups[0])).replace(" ", NO_BREAK)
                parts.append(f"<mtext>{text}</mtext>")
            elif kind == "hat":
                parts.append(f"<mover>{inside[0]}<mo>^</mo></mover>")
            else:
                parts.append(f"<m{kind}>{''.join(inside)}</m{kind}>")
    close()
    return "".join(parts)


def _element(sign: str) -> list[str]:
    if not sign.strip():
        return ['<mspace width="0.5em"/>'] if sign == " " and len(sign) > 1 else []
    if sign[0].isdigit():
        return [f"<mn>{sign}</mn>"]
    if sign[0].isalpha():
        return [f"<mi>{sign}</mi>"]
    return [f"<mo>{html.escape(sign)}</mo>"]
