"""The style sheet of the report; light by default, dark where the reader's system asks for it."""

STYLE = """
:root{--bg:#f6f5f1;--card:#fffefb;--ink:#1d2433;--muted:#667085;--line:#e2e0d8;--accent:#0f766e;--soft:#d9efec;
--grey:#98a2b3;--good:#15803d;--bad:#b42318;--warn:#a16207;--goodbg:#e3f4e8;--badbg:#fde8e6;--warnbg:#fbf0d3;
--f0:#4c78a8;--f1:#e45756;--f2:#54a24b;--f3:#f58518;--f4:#b279a2;--f5:#12a5a5;--f6:#8d7b68}
@media(prefers-color-scheme:dark){:root{--bg:#12151c;--card:#1a1f29;--ink:#e8eaf0;--muted:#98a2b3;--line:#2c3342;
--accent:#4fd1c5;--soft:#16383a;--grey:#667085;--good:#6ee7a0;--bad:#ff8f85;--warn:#f3cf6b;--goodbg:#12321f;
--badbg:#3d1a18;--warnbg:#3a2f10;--f0:#7aa6d8;--f1:#f08a89;--f2:#86cf7c;--f3:#ffae5c;--f4:#d3a3c6;--f5:#4fd0d0;--f6:#b9a892}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1120px;margin:0 auto;padding:40px 24px 72px}
header{margin-bottom:28px}
.eyebrow{margin:0;color:var(--accent);font-weight:600;letter-spacing:.08em;text-transform:uppercase;font-size:12px}
h1{margin:4px 0 12px;font-size:38px;line-height:1.1;letter-spacing:-.02em}
h2{margin:0 0 4px;font-size:20px;letter-spacing:-.01em}
h3{margin:0 0 6px;font-size:15px}
.lead{margin:8px 0;font-size:17px;max-width:75ch}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:22px 24px;margin:18px 0}
section.bad{border-color:var(--bad);border-left-width:6px}
section.warn{border-color:var(--warn);border-left-width:6px}
.note{margin:2px 0 14px;color:var(--muted);max-width:90ch;font-size:13.5px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:600;color:var(--muted);font-size:12.5px;padding:6px 14px 6px 0;vertical-align:bottom}
td{padding:9px 10px 9px 0;border-top:1px solid var(--line);vertical-align:top}
td small{display:block;color:var(--muted);font-size:12px;white-space:nowrap}
td.name{font-weight:600}td svg{min-width:130px}
.chip{display:inline-block;padding:2px 10px;border-radius:99px;font-weight:600;font-size:12.5px;white-space:nowrap}
.chip.pass{background:var(--goodbg);color:var(--good)}
.chip.fail{background:var(--badbg);color:var(--bad)}
.chip.unsure{background:var(--warnbg);color:var(--warn)}
.chip.plain{background:var(--line);color:var(--muted)}
.host{display:inline-block;background:var(--warnbg);color:var(--warn);font-weight:700;border-radius:8px;
padding:4px 12px;margin:4px 0 10px;text-transform:uppercase;letter-spacing:.04em;font-size:12.5px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:26px 32px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));gap:14px}
.cards>div{border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.big{margin:0 0 4px;font-size:26px;font-weight:650;letter-spacing:-.02em;line-height:1.2}
.big small{font-size:13px;font-weight:400;color:var(--muted);letter-spacing:0}
dl{display:grid;grid-template-columns:auto 1fr;gap:4px 14px;margin:0;font-size:13.5px}
dt{color:var(--muted)}dd{margin:0;text-align:right}
.key{display:inline-flex;align-items:center;gap:6px;margin:0 16px 8px 0;font-size:13px;color:var(--muted)}
.key i{width:12px;height:12px;border-radius:3px;display:inline-block}
details summary{cursor:pointer;color:var(--accent);font-weight:600;font-size:14px;padding:4px 0}
.pair+table{margin-top:22px}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,monospace;color:var(--muted)}
svg{width:100%;height:auto;display:block;font:11px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
svg text{fill:var(--ink)}svg .tick,svg .axis{fill:var(--muted)}svg .middle{text-anchor:middle}svg .end{text-anchor:end}
svg .strong{font-weight:650;font-size:13px}svg .worst{fill:var(--bad);font-weight:650}
svg .grid{stroke:var(--line);stroke-width:1}svg .chance{stroke:var(--bad);stroke-dasharray:3 3}
svg .mark{stroke:var(--ink);stroke-width:1.8}
svg .floor{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:2 2}
svg .hit{fill:transparent}svg .row:hover .hit{fill:var(--soft)}
svg .dot{stroke:var(--card);stroke-width:2}svg .dot.artifact{fill:var(--accent)}svg .dot.baseline{fill:var(--grey)}
svg .whisker{stroke-width:2}svg .whisker.artifact{stroke:var(--accent)}svg .whisker.baseline{stroke:var(--grey)}
svg .area{fill-opacity:.35;stroke-width:1.5}svg .area.artifact{fill:var(--accent);stroke:var(--accent)}
svg .area.baseline{fill:var(--grey);stroke:var(--grey)}svg .median{stroke-width:1.5;stroke-dasharray:4 3}
svg .median.artifact{stroke:var(--accent)}svg .median.baseline{stroke:var(--grey)}
svg text.artifact{fill:var(--accent);font-weight:650}svg text.baseline{fill:var(--muted)}
svg .curve{fill:none;stroke-width:2}svg .curve.artifact{stroke:var(--accent)}
svg .curve.baseline{stroke:var(--grey);stroke-dasharray:5 3}
svg .roof{stroke:var(--ink);stroke-width:1.8}svg .dashed{stroke-dasharray:7 4}
svg .edge{fill:none;stroke:var(--grey);stroke-width:1.5}svg .node{fill:var(--bg);stroke:var(--line);stroke-width:1.5}
svg .node.checkpoint{stroke:var(--f0)}svg .node.bundle{stroke:var(--accent)}svg .node.evidence{stroke:var(--f3)}
svg .limit{stroke:var(--ink);stroke-width:2}svg .span{stroke-width:7;stroke-linecap:round}
svg .span.pass{stroke:var(--good)}svg .span.fail{stroke:var(--bad)}svg .span.unsure{stroke:var(--warn)}
svg .value{fill:var(--card);stroke-width:2}svg .value.pass{stroke:var(--good)}svg .value.fail{stroke:var(--bad)}
svg .value.unsure{stroke:var(--warn)}
svg .family0{fill:var(--f0)}svg .family1{fill:var(--f1)}svg .family2{fill:var(--f2)}svg .family3{fill:var(--f3)}
svg .family4{fill:var(--f4)}svg .family5{fill:var(--f5)}svg .family6{fill:var(--f6)}
@media print{body{background:#fff}section{break-inside:avoid}}
""".strip()
