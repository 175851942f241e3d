// The report: one HTML file with everything in it, which prints to two pages of A4.

const REPORT_CELLS = 5; // pictures of a type
const REPORT_DOUBTFUL = 30; // pictures of doubtful and refused cells
const REPORT_PICTURE = 96; // pixels of a picture's side

const REPORT_STYLE = `
@page { size: A4; margin: 12mm }
* { box-sizing: border-box }
body { font: 10pt/1.35 system-ui, sans-serif; color: #111; max-width: 186mm; margin: 8mm auto; background: #fff }
h1 { font-size: 16pt; margin: 0 } h2 { font-size: 12pt; margin: 4mm 0 1.5mm }
.use { font-weight: 600; border-left: 4px solid #b45309; padding-left: 2mm; margin: 2mm 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.5mm 4mm; margin: 2mm 0 } dt { color: #444 } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% } th, td { border-bottom: 1px solid #ccc; padding: 0.8mm 2mm; text-align: right; font-weight: 400 }
thead th { border-bottom: 1.5px solid #111; font-weight: 600 } th:first-child { text-align: left; width: 60mm } .total th { font-weight: 600 }
.stage-row th { padding-left: 7mm; color: #444 } .with-dot { display: block } .interval { color: #444; margin-left: 2mm } .mark { margin-left: 2mm }
.dot { display: inline-block; width: 2.5mm; height: 2.5mm; border-radius: 50%; margin-right: 1.5mm; border: 1px solid #333 }
.bar { position: relative; display: block; height: 3mm; background: #f3f4f6; border: 1px solid #bbb; margin-top: 0.5mm; overflow: hidden }
.bar i { position: absolute; top: 0; bottom: 0 } .bar .normal { background: #c4c8ce } .bar .sure, .bar .unsure { top: 20%; bottom: 20% }
.bar .unsure { background: repeating-linear-gradient(45deg, var(--color) 0 2px, #fff 2px 4px) } .bar .whisker { top: 45%; bottom: 45%; background: #111 }
.notes { margin: 2mm 0; padding-left: 5mm } .gallery { display: flex; flex-wrap: wrap; gap: 1mm } figure { margin: 0; width: 17mm; font-size: 6.5pt; text-align: center }
figure img { width: 17mm; height: 17mm; display: block } .second { break-before: page; display: grid; grid-template-columns: 1fr 1fr; gap: 0 6mm }
.second .wide { grid-column: 1 / -1 } .small { font-size: 8.5pt; color: #333 } section { break-inside: avoid }
.signature { display: flex; gap: 12mm; margin-top: 7mm } .signature span { flex: 1; border-top: 1px solid #111; padding-top: 1mm }
* { -webkit-print-color-adjust: exact; print-color-adjust: exact }`;

// The most distinct cells of each type and the least, each type's by falling probability.
function reportCells() {
  const cells = liveCells(), best = (one, other) => (other.hand ? 1 : other.probabilities[other.label]) - (one.hand ? 1 : one.probabilities[one.label]);
  const types = PAGE.order.map((label) => [label, cells.filter((cell) => groupOf(cell) === label && !isDoubtful(cell)).sort(best).slice(0, REPORT_CELLS)]);
  const doubtful = cells.filter(needsReview).sort((one, other) => Number(other.known) - Number(one.known)).slice(0, REPORT_DOUBTFUL);
  return { types: types.filter(([, found]) => found.length), doubtful };
}

async function reportFigure(cell, pictures) {
  const field = state.fields[cell.field];
  if (!field.preview) return null;
  pictures[cell.field] ??= await loadPicture(field.preview);
  const source = cropPicture(pictures[cell.field], field, cell, REPORT_PICTURE).toDataURL("image/jpeg", 0.85);
  const caption = groupOf(cell) === REFUSED ? tr(`reason.${reasonOf(cell)}`) : cell.hand ? tr("cell.by_hand")
    : isDoubtful(cell) ? `${typeName(cell.label)} ${percent(cell.probabilities[cell.label])}` : percent(cell.probabilities[cell.label]);
  return h("figure", {}, h("img", { src: source, alt: cellSentence(cell) }), h("figcaption", {}, caption));
}

async function reportGallery(cells, pictures) {
  const figures = [];
  for (const cell of cells) figures.push(await reportFigure(cell, pictures));
  return h("div", { class: "gallery" }, figures);
}

function reportFacts() {
  const read = state.fields.filter((field) => field.preview), bad = state.fields.length - read.length;
  const corrected = liveCells().filter((cell) => cell.hand).length;
  const facts = [["report.sample", state.sample || "–"], ["report.reader", state.reader || "–"], ["report.date", new Date().toLocaleString(language() === "zh" ? "zh-CN" : "en-GB")],
    ["report.images", tr("report.images_text", { read: whole(read.length), bad: whole(bad) })],
    ["report.cells", tr("report.cells_text", { cells: whole(liveCells().length), corrected: whole(corrected) })],
    ["report.model", `${PAGE.model}${state.adapted?.on ? `, ${tr("report.adapted")}` : ""}`], ["report.versions", PAGE.versions]];
  return h("dl", {}, facts.map(([key, value]) => [h("dt", {}, tr(key)), h("dd", {}, value)]));
}

async function reportFile() {
  const { types, doubtful } = reportCells(), pictures = {}, count = differential(liveCells());
  const galleries = [];
  for (const [label, cells] of types) galleries.push(h("section", {}, h("h2", {}, capital(typeName(label))), await reportGallery(cells, pictures)));
  if (doubtful.length) galleries.push(h("section", { class: "wide" }, h("h2", {}, tr("report.doubtful")), await reportGallery(doubtful, pictures)));
  const body = h("body", {}, h("h1", {}, tr("report.title")), h("p", { class: "use" }, tr("report.use")), reportFacts(),
    h("h2", {}, tr("count.title")), differentialTable(count, beforeAdapting()), countNotes(count),
    h("p", { class: "small" }, tr("count.note"), " MedlinePlus"), h("p", { class: "small" }, tr("report.limits")),
    h("div", { class: "signature" }, h("span", {}, tr("report.signature")), h("span", {}, tr("report.day"))),
    h("div", { class: "second" }, galleries));
  const head = h("head", {}, h("meta", { charset: "utf-8" }), h("meta", { name: "viewport", content: "width=device-width" }),
    h("title", {}, [tr("report.title"), state.sample].filter(Boolean).join(": ")), h("style", {}, REPORT_STYLE));
  const html = h("html", { lang: document.documentElement.lang }, head, body);
  return `<!doctype html>\n${html.outerHTML}`;
}
