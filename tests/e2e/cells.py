"""Cells of all languages, and what each must give."""

from __future__ import annotations

from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell, and what it gives. What is not named here it must not give, but for `forms`."""

    code: str
    text: str | None = None
    """Of its last value."""
    json: Any = None
    stdout: str = ""
    stderr: str = ""
    exception: str = ""
    """Name and value, as `TypeError: bad`."""
    forms: tuple[str, ...] = ()
    """Others in which anything is shown: `png`, `html`, or a chart's type as
    `chart:bar`."""


FIGURE = "import matplotlib.pyplot as plt\n"

PYTHON = [
    Cell("1+1", "2"),
    Cell("x = 41"),
    Cell("x + 1", "42"),
    Cell("5;"),
    Cell("'s'", "'s'"),
    Cell("None"),
    Cell("True", "True"),
    Cell("2**100", str(2**100)),
    Cell("b'\\x00\\xff'", "b'\\x00\\xff'"),
    Cell("[1, 'a', None]", "[1, 'a', None]", [1, "a", None]),
    Cell("(1, 2)", "(1, 2)", [1, 2]),
    Cell("{'a': 1}", "{'a': 1}", {"a": 1}),
    Cell("{'a': {1}}", "{'a': {1}}"),
    Cell("[float('nan')]", "[nan]"),
    Cell("[float('inf')]", "[inf]"),
    Cell("{1: 2}", "{1: 2}"),
    Cell("{'n': 2**70}", "{'n': 1180591620717411303424}"),
    Cell("{3}", "{3}"),
    Cell("import numpy as np"),
    Cell("{'n': np.int64(3), 'f': np.float32(0.5)}", json={"n": 3, "f": 0.5}),
    Cell("np.array([1, 2])", "array([1, 2])"),
    Cell("import datetime as dt; [dt.date(2026, 1, 2)]", json=["2026-01-02"]),
    Cell("print('a'); print('b')", stdout="a\nb\n"),
    Cell("print('no newline', end='')", stdout="no newline"),
    Cell("import sys; print('e', file=sys.stderr)", stderr="e\n"),
    Cell("sys.stdout.write('w');", stdout="w"),
    Cell("print('héllo 🎉')", stdout="héllo 🎉\n"),
    Cell("print('x'); 7", "7", stdout="x\n"),
    Cell("for i in range(3): print(i)", stdout="0\n1\n2\n"),
    Cell("1/0", exception="ZeroDivisionError: division by zero"),
    Cell("print('before'); {}['k']", stdout="before\n", exception="KeyError: 'k'"),
    Cell("def f(:", exception="SyntaxError: invalid syntax"),
    Cell("nobody", exception="NameError: name 'nobody' is not defined"),
    Cell("class Own(Exception): pass\nraise Own('mine')", exception="Own: mine"),
    Cell("raise ValueError", exception="ValueError: "),
    Cell("x", "41"),
    Cell("sys.exit(3)", exception="SystemExit: 3"),
    Cell("x", "41"),
    Cell("input()", exception="StdinNotImplementedError"),
    Cell("import subprocess; subprocess.run(['echo', 'child']);", stdout="child\n"),
    Cell("import os; os.system('echo system');", stdout="system\n"),
    Cell("os.write(1, b'raw\\n');", stdout="raw\n"),
    Cell("!echo shell", stdout="shell\r\n"),
    Cell("files = !echo one; echo two\nfiles", "['one', 'two']", ["one", "two"]),
    Cell("%pwd", "'/workspace'"),
    Cell("%%bash\necho from bash", stdout="from bash\n"),
    Cell(
        "%nomagic",
        stderr="UsageError: Line magic function `%nomagic` not found.\n",
        exception="UsageError: Line magic",
    ),
    Cell("import asyncio; await asyncio.sleep(0, 'awaited')", "'awaited'"),
    Cell("from IPython.display import HTML, Markdown, Latex, SVG, JSON, display"),
    Cell("HTML('<b>b</b>')", forms=("html",)),
    Cell("Markdown('# m')", forms=("markdown",)),
    Cell("Latex('$x$')", forms=("latex",)),
    Cell("SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')", forms=("svg",)),
    Cell("JSON({'j': [1]})", json={"j": [1]}),
    Cell("display(1, 2)", forms=("text", "text")),
    Cell("class Both:\n def _repr_html_(self): return '<i>'\nBoth()", forms=("html",)),
    Cell("import pandas as pd; df = pd.DataFrame({'n': [1, 2]})"),
    Cell("df", forms=("html", "data")),
    Cell("df['n']", forms=("data",)),
    Cell("df.to_dict('records')", "[{'n': 1}, {'n': 2}]", [{"n": 1}, {"n": 2}]),
    Cell("df.describe()", forms=("html", "data")),
    Cell(FIGURE + "plt.plot([1, 2, 3]);", forms=("png", "chart:line")),
    Cell("plt.plot([1, 2, 3]); plt.show()", forms=("png", "chart:line")),
    Cell("plt.bar(['a', 'b'], [1, 2]);", forms=("png", "chart:bar")),
    Cell("plt.scatter([1, 2], [3, 4]);", forms=("png", "chart:scatter")),
    Cell("plt.pie([1, 3], labels=['a', 'b']);", forms=("png", "chart:pie")),
    Cell("plt.hist([1, 1, 2, 3, 3, 3]);", forms=("png", "chart:histogram")),
    Cell("plt.boxplot([[1, 2, 3, 9]]);", forms=("png", "chart:box")),
    Cell("plt.imshow([[1, 2], [3, 4]]);", forms=("png", "chart:heatmap")),
    Cell(
        "fig, (a, b) = plt.subplots(1, 2); a.plot([1, 2]); b.bar(['q'], [1]);",
        forms=("png", "chart:multiple"),
    ),
    Cell(
        "display({'application/vnd.plotly.v1+json': {'data': [{'type': 'bar', 'x': ['a'],"
        " 'y': [1]}], 'layout': {}}, 'text/plain': 'Figure'}, raw=True)",
        forms=("text", "chart:bar"),
    ),
]

JAVASCRIPT = [
    Cell("1+1", "2"),
    Cell("const a = 5; a", "5"),
    Cell("a", "5"),
    Cell("const a = 6; a", "6"),
    Cell("let l = 1; l", "1"),
    Cell("let l = 2; l", "2"),
    Cell("var v = 3"),
    Cell("v", "3"),
    Cell("function twice(n) { return n * 2 }"),
    Cell("twice(4)", "8"),
    Cell("class A { x = 1 }; new A()", "A { x: 1 }"),
    Cell("class A { x = 2 }; new A().x", "2"),
    Cell("const { p, q } = { p: 1, q: 2 }; p + q", "3"),
    Cell("'s'", "'s'"),
    Cell("null", "null"),
    Cell("undefined"),
    Cell("true", "true"),
    Cell("1n", "1n"),
    Cell("NaN", "NaN"),
    Cell("-0", "-0"),
    Cell("Symbol('s')", "Symbol(s)"),
    Cell("({ a: 1 })", "{ a: 1 }", {"a": 1}),
    Cell("{ a: 1 }", "{ a: 1 }", {"a": 1}),
    Cell("[1, { b: null }]", "[ 1, { b: null } ]", [1, {"b": None}]),
    Cell("[]", "[]", []),
    Cell("new Map([[1, 2]])", "Map(1) { 1 => 2 }"),
    Cell("[NaN]", "[ NaN ]"),
    Cell("({ f() {} })", "{ f: [Function: f] }"),
    Cell("const o = {}; o.o = o; o", "<ref *1> { o: [Circular *1] }"),
    Cell("console.log('a', { b: 1 }); console.log('c')", stdout="a { b: 1 }\nc\n"),
    Cell("console.error('e')", stderr="e\n"),
    Cell("process.stdout.write('w'); undefined", stdout="w"),
    Cell("console.log('héllo 🎉')", stdout="héllo 🎉\n"),
    Cell("console.log('x'); 7", "7", stdout="x\n"),
    Cell("await Promise.resolve(3)", "3"),
    Cell("Promise.resolve(4)", "4"),
    Cell("(async () => 5)()", "5"),
    Cell("await new Promise((r) => setTimeout(() => r('later'), 20))", "'later'"),
    Cell("throw new TypeError('bad')", exception="TypeError: bad"),
    Cell("null.x", exception="TypeError: Cannot read properties of null (reading 'x')"),
    Cell("nobody", exception="ReferenceError: nobody is not defined"),
    Cell("let = = 1", exception="SyntaxError: Unexpected token '='"),
    Cell("JSON.parse('{')", exception="SyntaxError: Expected property name or '}' in JSON"),
    Cell("class Own extends Error {}; throw new Own('mine')", exception="Own: mine"),
    Cell("throw 5", exception="Error: 5"),
    Cell(
        "console.log('before'); throw new RangeError('r')",
        stdout="before\n",
        exception="RangeError: r",
    ),
    Cell("await Promise.reject(new Error('async'))", exception="Error: async"),
    Cell("a", "6"),
    Cell(
        "const fs = require('fs'); fs.writeFileSync('j.txt', 'from js'); fs.existsSync('j.txt')",
        "true",
    ),
    Cell("require('node:path').join('a', 'b')", "'a/b'"),
    Cell(
        "import os, { EOL } from 'node:os'; import * as path from 'path'\n"
        "[os.EOL === EOL, path.sep]",
        "[ true, '/' ]",
        [True, "/"],
    ),
    Cell("(await import('node:util')).inspect(1)", "'1'"),
    Cell("import('nowhere')", exception="Error: Cannot find package 'nowhere' imported from"),
    Cell("require('nowhere')", exception="Error: Cannot find module 'nowhere'"),
    Cell("export const exported = 1; exported", "1"),
    Cell("Buffer.from('hi').toString('hex')", "'6869'"),
    Cell("typeof fetch + typeof URL + typeof structuredClone", "'functionfunctionfunction'"),
    Cell("process.cwd()", "'/workspace'"),
    Cell("require('child_process').execSync('echo child').toString()", "'child\\n'"),
    Cell(
        "require('child_process').execSync('echo raw', { stdio: 'inherit' }); undefined",
        stdout="raw\n",
    ),
    Cell("display({ 'text/html': '<b>' }, { raw: true })", forms=("html",)),
    Cell(
        "({ [Symbol.for('Jupyter.display')]: () => ({ 'text/markdown': '# m' }) })",
        forms=("markdown",),
    ),
    Cell(
        "Buffer.from('89504e470d0a1a0a', 'hex')", "<Buffer 89 50 4e 47 0d 0a 1a 0a>", forms=("png",)
    ),
    Cell("setTimeout(() => console.log('too late'), 30); 1", "1"),
    Cell("await new Promise((r) => setTimeout(r, 60))"),
    Cell("if (true) { 8 }", "8"),
    Cell("// nothing"),
    Cell(""),
]

TYPESCRIPT = [
    Cell("const n: number = 5; n", "5"),
    Cell("n as number", "5"),
    Cell("interface P { x: number }\nconst p: P = { x: 1 }; p", "{ x: 1 }", {"x": 1}),
    Cell("enum E { X = 3 }; E.X", "3"),
    Cell("E.X + 1", "4"),
    Cell("const enum K { A = 1 }; K.A", "1"),
    Cell("type T = string | number"),
    Cell("const t: T = 'a'; t", "'a'"),
    Cell("function id<T>(x: T): T { return x }\nid<number>(7)", "7"),
    Cell(
        "class Q { constructor(private y: number) {} get() { return this.y } }\nnew Q(2).get()", "2"
    ),
    Cell(
        "abstract class S { abstract z(): number }\nclass S2 extends S { z() { return 1 } }\n"
        "new S2().z()",
        "1",
    ),
    Cell("namespace N { export const y = 1 }\nN.y", "1"),
    Cell("{ a: 1 }", "{ a: 1 }", {"a": 1}),
    Cell("const v = await Promise.resolve<number>(3); v", "3"),
    Cell("import fs from 'node:fs'; fs.existsSync('/tmp') as boolean", "true"),
    Cell("import type { Stats } from 'node:fs'\n1", "1"),
    Cell("[1, 2].map((x: number): number => x * 2)", "[ 2, 4 ]", [2, 4]),
    Cell("({ a: 1 } satisfies object)", "{ a: 1 }", {"a": 1}),
    Cell("let maybe: string | undefined = undefined; maybe!", None),
    Cell("throw new TypeError('typed' as string)", exception="TypeError: typed"),
    Cell("let y: number = ;", exception="SyntaxError: Expression expected"),
    Cell("console.log('typed' as string)", stdout="typed\n"),
    Cell("const n: number = 6; n", "6"),
    Cell("require('fs').readFileSync('j.txt', 'utf8') as string", "'from js'"),
]
