"""Sources of functions that steps declare: only what depends on nothing but the argument, and ends.

A test of a function says something of its calls in a kernel only if it gives the same number for the same argument in
both. So a source has functions of one number alone, whose bodies have declarations with values, assignments, branches,
a return at the end, and calls of the functions below. There are no pointers, arrays, loops, macros or static variables.
"""

from __future__ import annotations

import re

SUFFIXES = {"float32": "f32", "float64": "f64"}
"""How the name of a function ends, by type."""

TYPES = frozenset({"double", "float", "int", "uint", "long", "ulong"})

CALLED = {
    "": "sqrt rsqrt exp exp2 exp10 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan erf erfc pow "
    "fabs fmin fmax floor ceil trunc round rint copysign ldexp fma mad select min max clamp isnan isinf isfinite",
    "as_": " ".join(TYPES),
    "native_": "sqrt rsqrt recip exp exp2 log log2 sin cos divide",
    "half_": "sqrt rsqrt recip exp exp2 log log2 sin cos divide",
}
"""Functions that may be called, by the beginning of their names: they depend on their arguments alone."""

BUILTINS = frozenset(f"{prefix}{name}" for prefix, names in CALLED.items() for name in names.split())

_TOKEN = re.compile(
    r"(?P<name>[A-Za-z_]\w*)"
    r"|(?:0[xX][\da-fA-F]*\.?[\da-fA-F]*(?:[pP][+-]?\d+)?|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[fFuUlL]*(?!\w)"
    r"|&&|\|\||<<|>>|[-+*/<>=!&|^~?:;,(){}]"
)

BINARY = ("*", "&", "&&")
"""Signs that make or follow pointers where they stand before a number, not between two."""


class _Refused(Exception):
    """A source has something that functions of one number need not have."""


def not_plain(name: str, source: str) -> str:
    """Return why a source is not one of plain functions of one number; "" if it is.

    Args:
        name: of the function; the source defines ``NAME_f32`` of a float, ``NAME_f64`` of a double, or both.
        source: in the language of the device.
    """
    missing = {f"{name}_f32": "float", f"{name}_f64": "double"}
    try:
        tokens = _tokens(source)
        while tokens:
            own, rest = next(((f, t) for f, t in missing.items() if tokens[:4] == ["static", "inline", t, f]), ("", ""))
            head = [token for token in tokens[4 : tokens.index(")")] if token != "const"] if ")" in tokens else []
            if not own or head[:2] != ["(", rest] or len(head) != 3:
                raise _Refused(f"expected static inline double {name}_f64(double x), or the same in float, and no more")
            del missing[own]
            tokens = _after_body(tokens[tokens.index(")") + 1 :], head[2])
    except _Refused as refused:
        return str(refused)
    return "" if len(missing) < 2 else "it is empty"


def _tokens(source: str) -> list[str]:
    """Return the names, numbers and signs of a source without its comments."""
    if found := re.search(r"[^\n -~]|\\|\?\?", source):
        raise _Refused(f"it has {found[0]!r}")
    text, tokens = re.sub(r"/\*.*?\*/|//[^\n]*", " ", source, flags=re.DOTALL), []
    while text := text.lstrip():
        token = _TOKEN.match(text)
        if token is None:
            raise _Refused(f"it has {text[0]!r}")
        tokens.append(token[0])
        text = text[token.end() :]
    return tokens


def _after_body(tokens: list[str], argument: str) -> list[str]:
    """Return what follows the body of a function that tokens begin with."""
    scopes: list[set[str]] = []
    new, last, cast, statement = "", ";", -1, ""
    for place, token in enumerate(tokens):
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if last in (";", "{", "}") and token not in ("{", "}"):
            statement = token
        if not scopes and token != "{":
            raise _Refused("a body is missing")
        if token == "{":
            scopes.append(set() if scopes else {argument})
        elif token == "}":
            scopes.pop()
            if not scopes:
                if last != ";" or statement != "return":
                    raise _Refused("a function does not end with return")
                return tokens[place + 1 :]
        elif token == ";":
            scopes[-1].add(new)
            new = ""
        elif token in BINARY and (last in TYPES or last in ("return", "else") or cast == place - 1 or _is_sign(last)):
            raise _Refused(f"{token} stands before a number, as for pointers")
        elif token in TYPES and (last, following) == ("(", ")"):
            cast = place + 1
        elif token in TYPES and last in (";", "{", "}", "const"):
            declared = tokens[place + 1 : place + 4]
            declared = declared[1:] if declared[:1] == ["const"] else declared
            if declared[1:2] != ["="] or not declared[0].isidentifier():
                raise _Refused("a variable is declared without a value")
            if any(declared[0] in scope for scope in scopes):
                raise _Refused(f"{declared[0]} is declared twice")
            new = declared[0]
        elif token.isidentifier() and not _is_known(token, last, following, scopes, new):
            raise _Refused(f"{token} is not known there")
        last = token
    raise _Refused("a body does not end")


def _is_sign(token: str) -> bool:
    """Return whether a token is a sign that no number ends with."""
    return token != ")" and not token[0].isalnum() and token[0] not in "_."


def _is_known(token: str, last: str, following: str, scopes: list[set[str]], new: str) -> bool:
    """Return whether a name may stand where it does."""
    if token in ("const", "if", "else", "return"):
        return True
    if token == new and (last in TYPES or last == "const"):
        return True
    return token in BUILTINS if following == "(" else any(token in scope for scope in scopes)
