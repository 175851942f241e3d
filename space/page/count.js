// The differential count: shares with their intervals, reference ranges, and what is counted apart.

const Z95 = 1.959964; // of the normal distribution, two-sided
const ENOUGH = 100; // cells, of a differential count
const NOT_COUNTED = ["erythroblast", "platelet"]; // types that are no white cells
const MOST_STAIN_DIFFERENCE = 45; // of the backgrounds of two images, in grey levels of the channel that differs most

// Wilson's interval of a share: [low, high] in [0, 1] (Wilson 1927, Brown, Cai & DasGupta 2001).
function wilson(count, total) {
  if (!total) return [0, 1];
  const share = count / total, z = Z95 ** 2 / total, half = Z95 * Math.sqrt((share * (1 - share) + z / 4) / total);
  return [Math.max(0, (share + z / 2 - half) / (1 + z)), Math.min(1, (share + z / 2 + half) / (1 + z))];
}

// Count cells: of each group the number, how many of them are doubtful, and its stages.
function countCells(cells, groupOfCell = groupOf, isDoubtfulCell = isDoubtful, stageOfCell = stageOf) {
  const groups = {};
  for (const cell of cells) {
    const group = (groups[groupOfCell(cell)] ??= { count: 0, doubtful: 0, stages: {} });
    group.count++;
    group.doubtful += isDoubtfulCell(cell);
    const stage = stageOfCell(cell);
    if (stage) group.stages[stage] = (group.stages[stage] ?? 0) + 1;
  }
  return groups;
}

// The rows of a differential: white types, and the stages of each as rows of their own.
function differential(cells, ...how) {
  const groups = countCells(cells, ...how), none = { count: 0, doubtful: 0, stages: {} };
  const white = PAGE.order.filter((label) => !NOT_COUNTED.includes(label));
  const total = white.reduce((sum, label) => sum + (groups[label] ?? none).count, 0);
  const rows = white.map((label) => {
    const { count, doubtful, stages } = groups[label] ?? none;
    const [low, high] = wilson(count, total), share = total ? count / total : 0;
    const known = Object.values(stages).reduce((sum, number) => sum + number, 0);
    const parts = (PAGE.stagesOf[label] ?? []).map((stage) => ({ stage, count: stages[stage] ?? 0 }));
    if (parts.length && count > known) parts.push({ stage: null, count: count - known });
    return { label, count, doubtful, share, low, high, stages: count ? parts : [], outside: outside(label, share, low, high, total) };
  });
  const apart = (label) => (groups[label] ?? none).count;
  return { rows, total, nrbc: apart("erythroblast"), platelets: apart("platelet"), notWhite: apart(NOT_WHITE), refused: apart(REFUSED),
    doubtful: rows.reduce((sum, row) => sum + row.doubtful, 0), byHand: cells.filter((cell) => cell.hand).length };
}

// How a share lies outside of its reference range: "above", "below", the same with "perhaps" where its interval reaches
// into the range, or null.
function outside(label, share, low, high, total) {
  const normal = PAGE.types[label]?.normal;
  if (!normal || !total) return null;
  if (100 * share > normal[1]) return 100 * low > normal[1] ? "above" : "perhaps_above";
  if (100 * share < normal[0]) return 100 * high < normal[0] ? "below" : "perhaps_below";
  return null;
}

const MARKS = { above: "▲", below: "▼", perhaps_above: "△", perhaps_below: "▽" };

function share(value) {
  return `${(100 * value).toFixed(1)} %`;
}

function interval(row) {
  return `${(100 * row.low).toFixed(1)}–${(100 * row.high).toFixed(1)}`;
}

// The names of images whose background differs much from that of most.
function odd() {
  const fields = state.fields.filter((field) => field.background), middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  if (fields.length < 2) return [];
  const usual = [0, 1, 2].map((channel) => middle(fields.map((field) => field.background[channel])));
  return fields.filter((field) => field.background.some((value, channel) => Math.abs(value - usual[channel]) > MOST_STAIN_DIFFERENCE))
    .map((field) => field.file);
}

// The table of a differential, on the page and in the report; `before` is that before adapting.
function differentialTable(count, before = null) {
  const columns = ["type", "count", "share", ...(before ? ["before"] : []), "range"];
  const rows = count.rows.flatMap((row, index) => [countRow(row, before && before.rows[index]), ...row.stages.map((part) => stageRow(part, columns.length))]);
  const total = h("tr", { class: "total" }, h("th", { scope: "row" }, tr("count.total")), h("td", {}, whole(count.total)),
    h("td", { colspan: columns.length - 2 }, count.doubtful ? tr("count.doubtful", { count: whole(count.doubtful) }) : ""));
  return h("table", { class: "differential" }, h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, tr(`count.${column}`))))),
    h("tbody", {}, rows, total));
}

function countRow(row, before) {
  const normal = PAGE.types[row.label]?.normal, sure = row.count ? (row.count - row.doubtful) / row.count : 0;
  const part = (kind, from, to, style = {}) => h("i", { class: kind, style: { left: `${100 * from}%`, width: `${100 * (to - from)}%`, ...style } });
  const bar = h("span", { class: "bar", "aria-hidden": "true" },
    normal ? part("normal", normal[0] / 100, normal[1] / 100) : null,
    part("sure", 0, row.share * sure, { background: colorOf(row.label) }),
    part("unsure", row.share * sure, row.share, { "--color": colorOf(row.label) }), part("whisker", row.low, row.high));
  const mark = row.outside ? h("strong", { class: "mark" }, `${MARKS[row.outside]} ${tr(`count.${row.outside}`)}`) : null;
  return h("tr", { "data-type": row.label }, h("th", { scope: "row" }, h("span", { class: "with-dot" }, h("i", { class: "dot", "aria-hidden": "true",
    style: { background: colorOf(row.label) } }), capital(typeName(row.label))), bar),
  h("td", {}, whole(row.count)), h("td", {}, share(row.share), h("span", { class: "interval" }, interval(row))),
  before ? h("td", { class: "before" }, share(before.share)) : null, h("td", { class: "range" }, normal ? `${normal[0]}–${normal[1]} %` : "–", mark));
}

function stageRow({ stage, count }, columns) {
  return h("tr", { class: "stage-row" }, h("th", { scope: "row" }, stage ? capital(named("stages", stage)) : tr("count.no_stage")),
    h("td", {}, whole(count)), h("td", { colspan: columns - 2 }));
}

// What is counted apart from the white cells, and what the reader ought to know.
function countNotes(count) {
  const notes = [];
  if (count.total && count.total < ENOUGH) notes.push(["hint", tr("count.few", { total: whole(count.total) })]);
  if (count.nrbc) notes.push(["", tr("count.nrbc", { count: whole(count.nrbc), per: count.total ? ((100 * count.nrbc) / count.total).toFixed(1) : "–" })]);
  if (count.platelets) notes.push(["", tr("count.platelets", { count: whole(count.platelets) })]);
  if (count.refused) notes.push(["hint", tr("count.refused", { count: whole(count.refused) })]);
  if (count.notWhite) notes.push(["", tr("count.not_white", { count: whole(count.notWhite) })]);
  const names = odd();
  if (names.length) notes.push(["hint", tr("count.odd", { count: names.length, files: names.slice(0, 3).join(", ") + (names.length > 3 ? " …" : "") })]);
  return h("ul", { class: "notes" }, notes.map(([kind, note]) => h("li", { class: kind }, note)));
}

function drawCount() {
  const panel = $(".count"), cells = liveCells();
  panel.hidden = cells.length < 2;
  if (panel.hidden) return panel.replaceChildren();
  const count = differential(cells);
  panel.replaceChildren(h("h2", {}, tr("count.title")), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": tr("count.title") },
    differentialTable(count, beforeAdapting())), countNotes(count), h("p", { class: "note" }, tr("count.note"), " ",
    h("a", { href: PAGE.source, target: "_blank", rel: "noopener" }, "MedlinePlus")));
}
parts.push(drawCount);
