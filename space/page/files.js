// The table of the files, with the reasons why some cannot be read; a click on a heading sorts by it.

let sorting = { column: "file", down: false };

const COLUMNS = {
  file: (field) => field.file,
  cells: (field, cells) => cells.length,
  doubtful: (field, cells) => cells.filter(isDoubtful).length,
  refused: (field, cells) => cells.filter((cell) => groupOf(cell) === REFUSED).length,
  types: (field, cells) => summaryOf(cells),
  remark: (field, cells) => (field.status === "unreadable" ? field.reason[language()] : cells.length ? "" : tr("verdict.empty")),
};

function summaryOf(cells) {
  const groups = countCells(cells);
  return PAGE.order.filter((label) => groups[label]).map((label) => `${typeName(label)} ${groups[label].count}`).join(", ");
}

function drawFiles() {
  const pane = $(".files-pane");
  pane.hidden = state.view !== "files";
  if (pane.hidden) return;
  const byField = state.fields.map(() => []);
  for (const cell of liveCells()) byField[cell.field].push(cell);
  const rows = state.fields.map((field, index) => ({ index, values: Object.values(COLUMNS).map((value) => value(field, byField[index])) }));
  const at = Object.keys(COLUMNS).indexOf(sorting.column), sign = sorting.down ? -1 : 1;
  rows.sort((one, other) => sign * (typeof one.values[at] === "number" ? one.values[at] - other.values[at]
    : one.values[at].localeCompare(other.values[at], undefined, { numeric: true })));
  const heading = (column) => h("th", { scope: "col", "aria-sort": sorting.column === column ? (sorting.down ? "descending" : "ascending") : "none" },
    button(tr(`files.${column}`), () => {
      sorting = { column, down: sorting.column === column ? !sorting.down : typeof rows[0]?.values[Object.keys(COLUMNS).indexOf(column)] === "number" };
      drawFiles();
      $(`.files-pane th:nth-child(${Object.keys(COLUMNS).indexOf(column) + 1}) button`).focus();
    }));
  const body = rows.map(({ index, values: [file, ...values] }) => h("tr", { class: state.fields[index].status },
    h("th", { scope: "row" }, state.fields[index].preview ? button(file, () => openField(index)) : file),
    values.map((value, at) => h("td", { class: typeof value === "number" ? "number" : "", "data-column": tr(`files.${Object.keys(COLUMNS)[at + 1]}`) },
      typeof value === "number" ? whole(value) : value))));
  pane.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": tr("files.title") },
    h("table", { class: "files" }, h("thead", {}, h("tr", {}, Object.keys(COLUMNS).map(heading))), h("tbody", {}, body))));
}
parts.push(drawFiles);
