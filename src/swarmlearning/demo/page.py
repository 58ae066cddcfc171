"""The report's page: structure and style. `@NAMES@` are filled in by `demo.report`.

The policy in its head forbids the browser to load or run anything, so that the file is safe to pass around.
"""

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root {
  color-scheme: light dark;
  --font: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  --paper: #ffffff; --card: #f4f6f8; --ink: #1c2430; --muted: #5c6878; --grid: #d9dfe6;
  --alone: #a7b1bc; --swarm: #0072b2; --pooled: #b34700; --good: #00684a; --bad: #a8231c;
  --on-alone: #1c2430; --on-swarm: #ffffff;
  --site-1: #0072b2; --site-2: #c25100; --site-3: #007a58; --site-4: #a8508a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12171e; --card: #1c232d; --ink: #e8edf3; --muted: #9aa7b6; --grid: #313b48;
    --alone: #5d6b7e; --swarm: #4fb0ea; --pooled: #f39a4a; --good: #4fd1a5; --bad: #ff8f87;
    --on-alone: #ffffff; --on-swarm: #0c1218;
    --site-1: #56b4e9; --site-2: #f39a4a; --site-3: #3cc79c; --site-4: #e39bc8;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--font); }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.lead { font-size: 1.1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; margin-top: 1.6rem; }
.tile { background: var(--card); border-radius: .6rem; padding: 1rem 1.2rem; border-top: .3rem solid var(--muted); }
.tile .figure { display: block; font-size: 2.1rem; font-weight: 650; line-height: 1.2; }
.tile b { display: block; }
.tile span:last-child { color: var(--muted); }
.tile.alone { border-color: var(--alone); }
.tile.swarm { border-color: var(--swarm); }
.tile.pooled { border-color: var(--pooled); }
.verdict { grid-column: 1 / -1; margin: 0; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 36rem; height: auto; margin-top: .6rem; }
table { border-collapse: collapse; margin-top: 1rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
tbody th, thead tr:first-child th:first-child { text-align: left; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tr.pooled td, tr.pooled th { border-bottom: 0; color: var(--pooled); font-weight: 600; }
tr.pooled td[colspan] { text-align: center; }
.mark { color: inherit; text-decoration: none; }
small, .small, ul.notes { color: var(--muted); font-size: .92rem; }
ul.notes { padding: 0; list-style: none; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
code { font: .85em/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; }
</style>
</head>
<body>
<main>
<h1>@TITLE@</h1>
<p class="lead">@LEAD@</p>
<div class="tiles">
@TILES@
</div>

<h2>@MEASURE@ by hospital</h2>
<p>@MEANING@ @SPREAD@</p>
<div class="scroll">@SCORES@</div>
<div class="scroll"><table>
<thead>
<tr><th rowspan="2">Hospital</th><th rowspan="2">training<br>rows</th><th rowspan="2">own test<br>rows</th>
<th colspan="2">all test rows</th><th colspan="2">its own test rows</th></tr>
<tr><th>alone</th><th>swarm</th><th>alone</th><th>swarm</th></tr>
</thead>
<tbody>
@ROWS@
</tbody>
</table></div>
<p>@OWN_ROWS@</p>
<ul class="notes" id="notes">@NOTES@</ul>

<h2>Loss by round</h2>
<p>@LOSS_TEXT@</p>
<div class="scroll">@LOSSES@</div>

<h2>One model, and the ledger knows which</h2>
@HASHES@
<p>@LEDGER@</p>

<h2>How it was done</h2>
<p>@METHOD@</p>

<h2>Data</h2>
<p class="small">@SOURCE@</p>
</main>
</body>
</html>
"""
